use std::collections::VecDeque;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::source::Record;

fn config(dir: &tempfile::TempDir, memory_bytes: u64, disk_bytes: u64) -> SpoolConfig {
    SpoolConfig { dir: dir.path().to_owned(), memory_bytes, disk_bytes }
}

fn stream(offset: u64, length: usize) -> Record {
    let bytes = Bytes::from(vec![u8::try_from(offset % 251).unwrap(); length]);
    Record::Stream { offset, received_ms: offset * 3, bytes }
}

fn record() -> impl Strategy<Value = Record> {
    let history = || "[0-9a-f]{40}".prop_map(|text| text.parse().unwrap());
    prop_oneof![
        (proptest::option::of(history()), any::<u64>(), proptest::option::of(any::<u64>()))
            .prop_map(|(history, offset, size)| Record::SnapshotBegin { history, offset, size }),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Record::Snapshot(bytes.into())),
        Just(Record::SnapshotEnd),
        history().prop_map(Record::Renamed),
        (any::<u64>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(offset, received_ms, bytes)| Record::Stream { offset, received_ms, bytes: bytes.into() }),
    ]
}

fn files(dir: &tempfile::TempDir) -> usize {
    std::fs::read_dir(dir.path()).unwrap().count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_is_a_queue_whatever_the_budgets(
        steps in proptest::collection::vec(proptest::option::weighted(0.6, record()), 1..200),
        memory in 0u64..2000,
        disk in 4000u64..8000,
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let (writer, mut reader) = open(config(&dir, memory, disk)).unwrap();
            let mut writer = writer.with_room_timeout(Duration::ZERO);
            let mut model = VecDeque::new();
            for step in steps {
                match step {
                    Some(record) => match writer.push(record.clone()).await {
                        Ok(()) => model.push_back(record),
                        Err(error) => assert_eq!(error.code, Code::SpoolFull),
                    },
                    None => {
                        if let Some(expected) = model.pop_front() {
                            assert_eq!(reader.next().await.unwrap(), Some(expected));
                        }
                    }
                }
                assert!(reader.usage().read().1 <= disk);
            }
            drop(writer);
            while let Some(record) = reader.next().await.unwrap() {
                assert_eq!(Some(record), model.pop_front());
            }
            assert!(model.is_empty());
            assert_eq!(reader.usage().read(), (0, 0));
            assert_eq!(files(&dir), 0);
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_while_both_ends_run() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader) = open(config(&dir, 2000, 20_000)).unwrap();
    let pushing = tokio::spawn(async move {
        for offset in 0..5000 {
            writer.push(stream(offset, 100)).await.unwrap();
        }
    });
    for offset in 0..5000 {
        assert_eq!(reader.next().await.unwrap(), Some(stream(offset, 100)));
    }
    assert_eq!(reader.next().await.unwrap(), None);
    pushing.await.unwrap();
    assert_eq!(files(&dir), 0);
}

#[tokio::test]
async fn memory_hands_over_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader) = open(config(&dir, 2000, 0)).unwrap();
    let bytes = Bytes::from(vec![1; 100]);
    writer.push(Record::Snapshot(bytes.clone())).await.unwrap();
    let Some(Record::Snapshot(got)) = reader.try_next().unwrap() else { panic!("not at hand") };
    assert_eq!(got.as_ptr(), bytes.as_ptr());
}

#[tokio::test]
async fn a_damaged_byte_on_disk_is_found() {
    for at in [0, 3, 5, 8, 30] {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, mut reader) = open(config(&dir, 0, 20_000)).unwrap();
        writer.push(stream(0, 10)).await.unwrap();
        writer.push(stream(10, 100)).await.unwrap();
        let path = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
        assert_eq!(reader.next().await.unwrap(), Some(stream(0, 10)));
        assert_eq!(reader.next().await.unwrap_err().code, Code::AgentDisk, "byte {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_room_is_said_after_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _reader) = open(config(&dir, 100, 0)).unwrap();
    writer.push(stream(0, 10)).await.unwrap();
    let error = writer.push(stream(10, 100)).await.unwrap_err();
    assert_eq!(error.code, Code::SpoolFull);
    assert!(error.message.contains(dir.path().to_str().unwrap()));
}

#[tokio::test]
async fn opening_removes_segments_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("0000000007.spool"), b"old").unwrap();
    std::fs::write(dir.path().join("notes.txt"), b"mine").unwrap();
    let (_writer, _reader) = open(config(&dir, 0, 0)).unwrap();
    assert_eq!(files(&dir), 1);
    assert!(dir.path().join("notes.txt").exists());
}
