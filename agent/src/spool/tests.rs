use bytes::Bytes;
use dts_proto::v1;
use proptest::prelude::*;

use super::*;

fn record(number: u64, length: usize) -> Record {
    Record::Stream { offset: number, received_ms: number * 7, bytes: Bytes::from(vec![b'x'; length]) }
}

fn small(dir: &tempfile::TempDir) -> SpoolConfig {
    bounded(dir, 1 << 20)
}

fn bounded(dir: &tempfile::TempDir, spool_disk_bytes: u64) -> SpoolConfig {
    let limits = v1::Limits { spool_memory_bytes: 1000, spool_disk_bytes, ..v1::Limits::default() };
    SpoolConfig { dir: dir.path().to_owned(), limits: watch::channel(limits.into()).1 }
}

fn open(config: SpoolConfig) -> Result<(Writer, Reader)> {
    Spool::open(config)?.begin(None)
}

impl Writer {
    fn put(&self, record: Record) -> Result<Option<Record>> {
        self.0.try_push(record, self.1)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_is_a_queue_whatever_is_in_memory_and_on_disk(steps in prop::collection::vec((any::<bool>(), 0usize..600), 1..120)) {
        let dir = tempfile::tempdir().unwrap();
        let (writer, mut reader) = open(small(&dir)).unwrap();
        let mut model = VecDeque::new();
        for (number, (push, length)) in steps.into_iter().enumerate() {
            if push {
                let record = record(number as u64, length);
                model.push_back(record.clone());
                prop_assert!(writer.put(record).unwrap().is_none());
                prop_assert!(reader.usage().read().0 <= 1000);
            } else {
                prop_assert_eq!(reader.try_next().unwrap(), model.pop_front());
            }
        }
        while let Some(expected) = model.pop_front() {
            prop_assert_eq!(reader.try_next().unwrap(), Some(expected));
        }
        prop_assert_eq!(reader.try_next().unwrap(), None);
        prop_assert_eq!(reader.usage().read(), (0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rewound_it_gives_the_same_bytes_again_and_goes_on_with_what_waits(
        lengths in prop::collection::vec(1usize..400, 1..60), read in 0usize..60, back in 0u64..2000,
    ) {
        let history = "a".repeat(40).parse().unwrap();
        let at = |offset| Position { history: Some(history), offset, db: 3 };
        let byte = |offset: u64| u8::try_from(offset % 251).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(small(&dir)).unwrap();
        let (writer, mut reader) = spool.begin(Some(&at(7))).unwrap();
        let mut end = 7;
        for length in &lengths {
            let bytes: Vec<u8> = (end..end + *length as u64).map(byte).collect();
            let record = Record::Stream { offset: end, received_ms: 1, bytes: bytes.into() };
            prop_assert!(writer.put(record).unwrap().is_none());
            end += *length as u64;
        }
        let mut given = 7;
        for _ in 0..read {
            if let Some(Record::Stream { offset, bytes, .. }) = reader.try_next().unwrap() {
                given = offset + bytes.len() as u64;
            }
        }
        let from = given.saturating_sub(back).max(7);
        let kept = reader.usage().kept_from().unwrap();
        prop_assert_eq!(spool.covers(&at(from)), from >= kept);
        prop_assert!(!spool.covers(&at(end + 1)));
        if from >= kept {
            let (again, mut reader, goes_on) = spool.rewind(&at(from)).unwrap();
            prop_assert_eq!(goes_on, at(end));
            // The attempt before has no hand in it any more.
            prop_assert!(writer.put(record(end, 1)).is_err());
            let mut offset = from;
            while let Some(record) = reader.try_next().unwrap() {
                let Record::Stream { offset: begins, bytes, .. } = record else { unreachable!() };
                prop_assert_eq!(begins, offset);
                prop_assert!(bytes.iter().zip(offset..).all(|(is, at)| *is == byte(at)));
                offset += bytes.len() as u64;
            }
            prop_assert_eq!(offset, end);
            drop(again);
        }
    }
}

#[test]
fn it_is_not_rewound_over_a_snapshot_that_waits_and_empty_when_begun_anew() {
    let history = "a".repeat(40).parse().unwrap();
    let at = |offset| Position { history: Some(history), offset, db: 0 };
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(small(&dir)).unwrap();
    let (writer, mut reader) = spool.begin(Some(&at(0))).unwrap();
    writer.put(record(0, 10)).unwrap();
    reader.try_next().unwrap();
    assert!(spool.covers(&at(0)));
    writer.put(Record::SnapshotBegin { history: Some(history), offset: 50, size: None }).unwrap();
    writer.put(Record::SnapshotEnd).unwrap();
    assert!(!spool.covers(&at(0)));
    reader.try_next().unwrap();
    reader.try_next().unwrap();
    assert!(spool.covers(&at(50)) && !spool.covers(&at(0)));
    let (_writer, mut reader) = spool.begin(Some(&at(0))).unwrap();
    assert_eq!((reader.try_next().unwrap(), spool.covers(&at(50))), (None, false));
}

#[test]
fn a_damaged_byte_on_disk_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, mut reader) = open(small(&dir)).unwrap();
    for number in 0..5 {
        assert!(writer.put(record(number, 500)).unwrap().is_none());
    }
    let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = std::iter::from_fn(|| reader.try_next().transpose()).find_map(Result::err).unwrap();
    assert_eq!(error.code, Code::AgentDisk);
}

#[tokio::test(start_paused = true)]
async fn a_full_spool_stops_with_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _reader) = open(bounded(&dir, 1000)).unwrap();
    let mut number = 0;
    let error = loop {
        match writer.push(record(number, 500)).await {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
        assert!(number < 100, "it has no bound");
    };
    assert_eq!(error.code, Code::SpoolFull);
}

#[tokio::test]
async fn the_reader_ends_when_the_writer_is_gone_and_all_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader) = open(small(&dir)).unwrap();
    writer.push(record(1, 10)).await.unwrap();
    drop(writer);
    assert_eq!(reader.next().await.unwrap(), Some(record(1, 10)));
    assert_eq!(reader.next().await.unwrap(), None);
}
