//! Names of module types (`moduleTypeEncodeId` in Redis's `module.c`): nine characters of six bits each, behind them ten bits of a version.

use super::cursor::Cursor;

const CHARACTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// `RDB_TYPE_MODULE_2`: the only form that is ever sent.
const TYPE: u8 = 7;

/// The name of the module type of a DUMP payload, for example `ReJSON-RL`; none if it is a value of another type.
pub fn module_type(payload: &[u8]) -> Option<String> {
    let id = payload.strip_prefix(&[TYPE]).and_then(|rest| Cursor::new(rest, 0).length().ok())?;
    let character = |place: u32| CHARACTERS.get(usize::try_from(id >> (10 + 6 * place) & 63).ok()?).copied();
    (0..9).rev().map(|place| character(place).map(char::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_type_is_named_as_its_module_names_it() {
        // The first bytes that DUMP of Redis Stack 7.2 gives for a JSON value and for a cuckoo filter.
        let json = [7, 0x81, 0x45, 0xe2, 0x52, 0x38, 0xdf, 0x91, 0x2c, 0x03, 0x05];
        let cuckoo = [7, 0x81, 0x30, 0x16, 0xe5, 0xa2, 0x89, 0x82, 0x14, 0x04];
        assert_eq!(module_type(&json).as_deref(), Some("ReJSON-RL"));
        assert_eq!(module_type(&cuckoo).as_deref(), Some("MBbloomCF"));
        assert_eq!(module_type(&[0, 1, b'a']), None);
        assert_eq!(module_type(&[7]), None);
    }
}
