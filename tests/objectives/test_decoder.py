import torch
from torch.nn import functional


def test_the_decoder_sees_the_vector_and_the_masked_copy_and_rebuilds_the_text(model, training_batch, sends_gradient):
    objective = sends_gradient("decoder", mask_probability=0.7)
    batch = training_batch(objective.needs)
    model.eval()
    objective.eval()
    vectors = torch.randn(6, 16)
    found = objective(vectors, batch, model)
    losses = []
    for row in range(6):
        length = int(batch["attention_mask"][row].sum())
        states = model.bert.embeddings(batch["second_ids"][row : row + 1, :length]).clone()
        states[0, 0] = vectors[row]
        logits = model.cls(objective.layer(states))[0]
        labels = batch["second_labels"][row, :length]
        losses.append(functional.cross_entropy(logits, labels, ignore_index=-100, reduction="none")[labels != -100])
    torch.testing.assert_close(found, torch.cat(losses).mean())


def test_its_copy_is_masked_heavily_and_apart_from_the_encoders(tokenizer, training_batch, sends_gradient):
    objective = sends_gradient("decoder", mask_probability=0.7)
    batch = training_batch(objective.needs)
    chosen, first = batch["second_labels"] != -100, batch["labels"] != -100
    assert (batch["second_ids"][chosen] == tokenizer.mask_token_id).all()
    maskable = ~torch.isin(batch["original_ids"], torch.tensor(tokenizer.all_special_ids))
    assert 0.5 < chosen.sum() / maskable.sum() < 0.9
    assert not torch.equal(chosen & first, first)


def test_a_batch_without_a_masked_position_costs_nothing(model, training_batch, sends_gradient):
    objective = sends_gradient("decoder")
    batch = training_batch(objective.needs)
    batch["second_labels"] = torch.full_like(batch["second_labels"], -100)
    batch["second_positions"] = batch["second_positions"][:0]
    assert objective(torch.randn(6, 16), batch, model).item() == 0.0
