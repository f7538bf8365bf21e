//! placeholder-of-the-first-minute
