//! The directory, built.
