//! Alarms and policies as the store has them.

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{Alarm, AlarmPolicy};
use prost::Message;

use crate::store::Versioned;

pub(super) const POLICY: &str = "alarm/policy/";
pub(super) const OPEN: &str = "alarm/open/";
pub(super) const PAST: &str = "alarm/past/";

/// A policy as it is stored.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredPolicy {
    /// Secrets sealed.
    #[prost(message, optional, tag = "1")]
    pub(super) policy: Option<AlarmPolicy>,
    /// Idempotency key of its creation.
    #[prost(string, tag = "2")]
    pub(super) request_id: String,
    /// Kept until its alarms are told to be over.
    #[prost(bool, tag = "3")]
    pub(super) deleted: bool,
}

/// Something that is stored, at the revision at which it was written last.
#[derive(Clone, Debug)]
pub(super) struct Held<T> {
    pub(super) value: T,
    pub(super) revision: u64,
    /// Not what the store has, or perhaps not.
    pub(super) unsaved: bool,
}

impl<T: Message + Default> Held<T> {
    pub(super) fn decode(key: &str, found: &Versioned) -> Result<Self> {
        let value = T::decode(found.value.as_slice())
            .map_err(|error| Error::new(Code::Internal, format!("what is stored at {key}: {error}")))?;
        Ok(Self { value, revision: found.revision, unsaved: false })
    }
}

pub(super) fn alarm(key: &str, found: &Versioned) -> Result<Alarm> {
    Held::<Alarm>::decode(key, found).map(|held| held.value)
}
