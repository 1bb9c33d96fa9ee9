"""The prompt matrix of a handle: what a model must be able to do, asked again and again, and compared with before.

What a conversion lost is measured by `llmctl.models.quality`.
"""
