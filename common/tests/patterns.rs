//! Patterns of keys, against what servers answered to KEYS (`golden/patterns.txt`).

use dts_common::selection::fits;

fn bytes(hex: &str) -> Option<Vec<u8>> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}

#[test]
fn patterns_fit_the_keys_that_servers_say() {
    let mut lines = include_str!("golden/patterns.txt").lines();
    let keys: Vec<Vec<u8>> = lines.next().unwrap().split(',').map(|key| bytes(key).unwrap()).collect();
    let (mut fitting, mut other) = (0, 0);
    for line in lines {
        let (pattern, digits) = line.split_once('\t').unwrap();
        let pattern = bytes(pattern).unwrap();
        for (at, key) in keys.iter().enumerate() {
            let digit = u8::from_str_radix(&digits[at / 4..=at / 4], 16).unwrap();
            let expected = digit >> (3 - at % 4) & 1 == 1;
            assert_eq!(fits(&pattern, key), expected, "{} {}", pattern.escape_ascii(), key.escape_ascii());
            if expected { fitting += 1 } else { other += 1 }
        }
    }
    assert!(fitting > 1000 && other > 1000, "{fitting} {other}");
}
