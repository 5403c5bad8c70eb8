"""The commands, one module a family; `app.cli` has the table."""
