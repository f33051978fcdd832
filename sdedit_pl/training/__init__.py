"""Training score models with Lightning."""
