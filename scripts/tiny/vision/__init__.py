"""A tiny vision model, trained here to name the colour and the shape of a drawn picture; run by scripts/tiny-vision."""
