//! Random bits from the operating system, for passwords and names that must not collide.

use std::fs::File;
use std::io::{self, Read};

/// 64 random bits.
pub(super) fn random_bits() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
