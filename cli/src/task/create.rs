//! `dts task create`: a task from options, or from a file.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use dts_proto::v1::credential::Secret;
use dts_proto::v1::{Credential, CrossSlot, Endpoint, TaskSpec, Tls};

use crate::address::Address;
use crate::argv;
use crate::guard::Guarding;
use crate::place::Places;
use crate::selection::Selecting;
use crate::sources::{self, Sources};
use crate::target::TargetKind;
use crate::task_file;
use crate::tls::TlsArguments;

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Take the task from a file (docs/task-file.md) instead of from options; `-` is standard input.
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with_all = [
        "name", "target", "mode", "source_password_env", "target_password_env", "allow_downgrade", "skip_cross_slot",
        "Sources", "TargetKind", "TlsArguments", "Selecting", "Places",
    ])]
    file: Option<PathBuf>,
    /// A name for people.
    #[arg(long, required_unless_present = "file")]
    name: Option<String>,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    target_kind: TargetKind,
    /// `redis://[user@]host:port`; `rediss://` for TLS.
    #[arg(long, required_unless_present = "file")]
    target: Option<String>,
    #[arg(long, value_enum, default_value_t = Mode::Sync)]
    mode: Mode,
    /// Name of an environment variable of the agent.
    #[arg(long)]
    source_password_env: Option<String>,
    /// Name of an environment variable of the agent.
    #[arg(long)]
    target_password_env: Option<String>,
    /// Take a target that is older than the source.
    #[arg(long)]
    allow_downgrade: bool,
    #[command(flatten)]
    tls: TlsArguments,
    /// A cluster as the target: leave commands over several slots that cannot be done exactly out.
    #[arg(long)]
    skip_cross_slot: bool,
    /// Begin at once, if the check that comes first passes.
    #[arg(long)]
    pub(super) start: bool,
    /// With --start: take all that the check warns of upon oneself.
    #[arg(long, requires = "start")]
    pub(super) acknowledge: bool,
    #[command(flatten)]
    guarding: Guarding,
    #[command(flatten)]
    selecting: Selecting,
    #[command(flatten)]
    places: Places,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Everything, then every change until completed.
    Sync,
    /// Everything once.
    Migrate,
}

impl From<Mode> for dts_proto::v1::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Sync => Self::Sync,
            Mode::Migrate => Self::Migrate,
        }
    }
}

pub(crate) fn cross_slot(skip: bool) -> CrossSlot {
    if skip { CrossSlot::Skip } else { CrossSlot::Stop }
}

pub(super) async fn spec(create: Create) -> Result<TaskSpec> {
    if let Some(path) = &create.file {
        return task_file::read(path);
    }
    let nothing = argv::Secrets::default();
    let found = create.sources.resolve(|option, url| sources::login(option, url, &nothing, None, &create.tls)).await?;
    if !found.about.is_empty() {
        sources::tell(&found, false);
    }
    type Side = fn(&TlsArguments, bool) -> Result<Option<Tls>>;
    let endpoint = |url: &str, variable: Option<String>, side: Side| -> Result<Endpoint> {
        let Address { tls, host, port, username, password } = Address::parse(url)?;
        // Only a file of sources may hold one; the coordinator seals it.
        let secret = variable.map(Secret::PasswordEnv).or(password.map(Secret::Password));
        let credential =
            (secret.is_some() || !username.is_empty()).then_some(Credential { username, secret, password_set: false });
        Ok(Endpoint { host, port, credential, tls: side(&create.tls, tls)?, ..Endpoint::default() })
    };
    let mut sources = Vec::new();
    for (url, password) in found.urls {
        let mut source =
            endpoint(&url, create.source_password_env.clone(), TlsArguments::source).context("--source")?;
        if let Some(password) = password {
            source.credential.get_or_insert_default().secret.get_or_insert(Secret::Password(password));
        }
        sources.push(source);
    }
    let target = create.target.unwrap_or_default();
    let target = endpoint(&target, create.target_password_env, TlsArguments::target).context("--target")?;
    let mut spec = TaskSpec {
        name: create.name.unwrap_or_default(),
        topology: found.topology,
        sources,
        target: Some(create.target_kind.put(target)),
        mode: dts_proto::v1::Mode::from(create.mode).into(),
        allow_downgrade: create.allow_downgrade,
        cross_slot: cross_slot(create.skip_cross_slot).into(),
        target_guard: create.guarding.level(),
        target_fence: create.guarding.fence(),
        ..TaskSpec::default()
    };
    create.selecting.put(&mut spec)?;
    create.places.put(&mut spec);
    Ok(spec)
}
