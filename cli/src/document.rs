//! The parts of a draft's document that people ask for.
