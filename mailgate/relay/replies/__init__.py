"""What replies mean: categories of refusals, and which of them ask us to slow down."""
