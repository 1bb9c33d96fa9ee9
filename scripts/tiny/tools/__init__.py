"""A tiny model that calls tools and thinks, in the manner of Qwen3 and its Hermes template."""
