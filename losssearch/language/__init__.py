"""The loss language: signature, primitives, programs, formulas, canonical form, derivatives, facts."""
