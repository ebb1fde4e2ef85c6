//! Bytes as they are written down.

use std::fmt::Write as _;

/// Two small letters or digits a byte.
pub fn hex(bytes: impl IntoIterator<Item = u8>) -> String {
    bytes.into_iter().fold(String::new(), |mut text, byte| {
        let _never_fails = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_takes_two() {
        assert_eq!(hex([0, 9, 255]), "0009ff");
    }
}
