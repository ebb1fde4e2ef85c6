//! Streaming RDB decoder.
