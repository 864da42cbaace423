//! Changes: the one door through which wishes enter the spec.
