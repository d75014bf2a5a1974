//! Cost follows the change.
