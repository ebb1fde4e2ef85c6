//! What the fuzz targets share. A target panics where a promise is broken; libFuzzer keeps the input that did it.

pub mod blob;
pub mod events;
pub mod pieces;
pub mod reference;

use std::alloc::System;

use cap::Cap;

/// No input of a target is longer than 64 KiB. LZF makes at most 88 bytes of one, and a decoder may hold it in a few forms:
/// who allocates more believed a length that the input only claims.
const MOST_ALLOCATED: usize = 64 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MOST_ALLOCATED);
