"""The loss language: primitives, programs, formulas, canonical form, derivatives, facts."""
