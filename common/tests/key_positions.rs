//! Keys of commands, against what a server says of them (`golden/keys.tsv`, from COMMAND GETKEYS).

use dts_common::redis::command_table::keys_of;

#[test]
fn keys_stand_where_the_server_says() {
    let mut forms = 0;
    for line in include_str!("golden/keys.tsv").lines() {
        let (form, expected) = line.split_once('\t').unwrap();
        let words: Vec<&str> = form.split(' ').collect();
        let found: Vec<&str> = keys_of(words.as_slice())
            .unwrap_or_else(|error| panic!("{form}: {error:?}"))
            .iter()
            .map(|key| words[key.at])
            .collect();
        let mut expected: Vec<&str> = expected.split_whitespace().collect();
        expected.sort_unstable();
        let mut sorted = found.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, expected, "{form}");
        forms += 1;
    }
    assert!(forms > 60, "{forms}");
}
