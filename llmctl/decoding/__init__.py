"""From logits to text: choosing tokens, joining them to whole characters, finding stop strings."""
