//! What the target is, as an argument.

use clap::{Args, ValueEnum};
use dts_proto::v1::Endpoint;

#[derive(Debug, Args)]
pub(crate) struct TargetKind {
    /// What the target is: it says itself whether it is a server or a cluster. `endpoint` is an address that routes by itself, a proxy or that of a
    /// managed cluster, which takes commands of one key only: at least once, docs/routing-endpoints.md.
    #[arg(long, value_enum, default_value_t = Kind::Auto)]
    target_kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Auto,
    Endpoint,
}

impl TargetKind {
    /// The target, as what it is.
    pub(crate) fn put(&self, target: Endpoint) -> Endpoint {
        Endpoint { routes: self.target_kind == Kind::Endpoint, ..target }
    }
}
