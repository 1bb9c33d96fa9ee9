"""The protocols a slot speaks: one file each, from a request's body to a GenerateRequest, and from chunks back."""
