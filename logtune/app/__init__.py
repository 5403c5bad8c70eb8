"""Entry points; they may import everything."""
