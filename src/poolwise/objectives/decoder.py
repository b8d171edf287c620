"""A weak decoder that must rebuild the text from the pooler's output."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from poolwise.data.arrangement import BatchNeeds
from poolwise.data.batching import Batch
from poolwise.encoder import MaskedLMWithPooler, draw_dense, masked_lm_loss
from poolwise.families import family_of
from poolwise.objectives.base import PoolerLoss, Surroundings
from poolwise.settings import OpenShare, UserError

DISTILBERT_EPSILON = 1e-12
"""Of its layer norms: fixed in its code, and in no config."""


class WeakDecoder(PoolerLoss):
    """A one-layer decoder rebuilds a heavily masked copy of the text from the pooler's output.

    RetroMAE's basic decoding (Xiao et al. 2022), with the pooler's output in place of the raw [CLS] state, and without
    the enhanced decoding and the masks of whole words that their code trains with. Its input is the pooler's output at
    position 0 and the embeddings of the masked copy after it; one transformer layer and the tied MLM head give the
    loss, the cross entropy in nats, a mean over masked positions. So little of the text is left that the decoder must
    read the vector. The layer is not exported.
    """

    name = "decoder"

    def __init__(self, surroundings: Surroundings, *, mask_probability: OpenShare, **shared: Any) -> None:
        """Args:
        surroundings: the encoder's sizes, which the decoder's layer has too.
        mask_probability: share of word pieces masked in the decoder's copy (RetroMAE: 0.5 to 0.7).
        shared: as in `PoolerLoss`.

        Raises:
            UserError: the encoder has no position embeddings.
        """
        super().__init__(surroundings, **shared)
        self.needs = BatchNeeds(second_mask=mask_probability)
        config = surroundings.config
        family = family_of(config)
        if not family.has_position_embeddings:
            raise UserError(
                f"objective=decoder reads word order from position embeddings, and {family.name} has none; "
                "objective=bow asks the same without order"
            )
        self.layer = nn.TransformerEncoderLayer(
            config.hidden_size,
            config.num_attention_heads,
            getattr(config, family.feed_forward_size),
            dropout=family.dropout(config)[0],
            activation="gelu",
            layer_norm_eps=getattr(config, "layer_norm_eps", DISTILBERT_EPSILON),
            batch_first=True,
        )
        draw_dense(self.layer, config.initializer_range)

    def forward(
        self, pooler_output: Float[Tensor, "R H"], batch: Batch, model: MaskedLMWithPooler
    ) -> Float[Tensor, ""]:
        """Cross entropy at the masked positions of the second masking; 0 where there is none."""
        embedded = model.token_embeddings(batch["second_ids"], batch.get("token_type_ids"))
        states = torch.cat([pooler_output.unsqueeze(1).to(embedded.dtype), embedded[:, 1:]], dim=1)
        decoded = self.layer(states, src_key_padding_mask=batch["attention_mask"] == 0)
        masked, labels = (
            part.flatten(0, 1).index_select(0, batch["second_positions"]) for part in (decoded, batch["second_labels"])
        )
        return masked_lm_loss(model.mlm_logits(masked), labels)

    def counted(self, batch: Batch) -> int:
        """Masked positions of the second masking."""
        return len(batch["second_positions"])
