"""The buyers' routes, as the reference client speaks to them."""
