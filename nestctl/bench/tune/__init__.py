"""Try settings that matter for nesting, one at a time, against the lab as it is, and put everything back."""
