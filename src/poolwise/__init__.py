"""Adapt an encoder to your own text with a pooler that is really trained; compare sentence representations."""
