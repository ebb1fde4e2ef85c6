//! The sources of a task as arguments: one by one, or in a file.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use dts_agent::discover::{self, Found};
use dts_agent::endpoint::Endpoint;
use dts_proto::v1::credential::Secret;
use dts_proto::v1::{self, SourceKind, Topology};

use crate::address::Address;
use crate::argv;
use crate::serve::read_file;
use crate::tls::TlsArguments;

/// Where the data comes from.
#[derive(Debug, Args)]
pub(crate) struct Sources {
    /// `redis://[user:password@]host:port`, `rediss://` for TLS; once for every node that is to be read.
    #[arg(long, value_name = "URL")]
    source: Vec<String>,
    /// A file with one such URL a line; it may hold passwords. What begins with # is a comment.
    #[arg(long, conflicts_with = "source")]
    sources_file: Option<PathBuf>,
    /// Find the sources from one entry: the URL of any node of a cluster or of a sentinel, twemproxy's nutcracker.yml (`#pool`
    /// behind it names one of several), codis's dashboard (http://host:port) or the JSON that it gave.
    #[arg(long, value_name = "URL|FILE", conflicts_with_all = ["source", "sources_file"])]
    discover: Option<String>,
    /// What the sources are to each other; `--discover` finds that out.
    #[arg(long, value_enum, default_value_t = Kind::Auto)]
    source_kind: Kind,
    /// What becomes of keys that a source holds though another one owns them.
    #[arg(long, value_enum)]
    strays: Option<Strays>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Strays {
    /// Stop, and name some.
    Stop,
    /// Take the owner's copy, count the others.
    Drop,
}

/// What the arguments come to.
pub(crate) struct Resolved {
    /// URLs, with the password that was found out for each, if one was.
    pub(crate) urls: Vec<(String, Option<String>)>,
    pub(crate) topology: Option<Topology>,
    /// What each is; empty if they were listed.
    pub(crate) about: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Servers by themselves, unless they are discovered to be something else.
    Auto,
    /// Servers by themselves; several must have no key in common.
    Standalone,
    /// One node of every master of a Redis Cluster.
    Cluster,
}

impl Sources {
    /// Every source, at least one.
    pub(crate) fn urls(&self) -> Result<Vec<String>> {
        let urls = match &self.sources_file {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("--sources-file {}", path.display()))?;
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
                lines.map(str::to_owned).collect()
            }
            None => self.source.clone(),
        };
        if urls.is_empty() {
            bail!("name the source by --source, or the sources by several of them or by --sources-file");
        }
        Ok(urls)
    }

    /// What they are to be found from.
    pub(crate) fn entry(&self) -> Option<&str> {
        self.discover.as_deref()
    }

    /// Lists the sources, or finds them. `login` resolves a URL with what this host knows of passwords.
    pub(crate) async fn resolve(&self, login: impl Fn(&str, &str) -> Result<Endpoint>) -> Result<Resolved> {
        let strays = match self.strays {
            None => v1::Strays::Unspecified,
            Some(Strays::Stop) => v1::Strays::Stop,
            Some(Strays::Drop) => v1::Strays::Drop,
        };
        let Some(entry) = &self.discover else {
            let kind = match self.source_kind {
                Kind::Auto | Kind::Standalone => SourceKind::Standalone,
                Kind::Cluster => SourceKind::Cluster,
            };
            let plain = kind == SourceKind::Standalone && strays == v1::Strays::Unspecified;
            let topology = Topology { kind: kind.into(), strays: strays.into(), ..Topology::default() };
            let urls = self.urls()?.into_iter().map(|url| (url, None)).collect();
            return Ok(Resolved { urls, topology: (!plain).then_some(topology), about: Vec::new() });
        };
        let (found, scheme, user) =
            find(entry, login).await.map_err(|error| anyhow!("--discover {entry}: {error:#}"))?;
        let mut topology = Topology { found_by: entry.clone(), strays: strays.into(), ..found.topology };
        if topology.kind() == SourceKind::Sentinel {
            let Address { host, port, .. } = Address::parse(entry)?;
            topology.sentinels = vec![v1::Endpoint { host, port, ..v1::Endpoint::default() }];
        }
        let url = |source: &discover::Source| {
            let host = if source.host.contains(':') { format!("[{}]", source.host) } else { source.host.clone() };
            format!("{scheme}://{user}{host}:{}", source.port)
        };
        let urls = found.sources.iter().map(|source| (url(source), source.password.clone())).collect();
        let about = found.sources.into_iter().map(|source| source.about).collect();
        Ok(Resolved { urls, topology: Some(topology), about })
    }

    /// As they were given, for the command that goes on.
    pub(crate) fn again(&self) -> String {
        let mut words: Vec<String> = self.source.iter().map(|url| format!("--source {url}")).collect();
        words.extend(self.sources_file.iter().map(|path| format!("--sources-file {}", path.display())));
        words.extend(self.discover.iter().map(|entry| format!("--discover {entry}")));
        words.extend(
            self.strays.and_then(|strays| strays.to_possible_value()).map(|of| format!("--strays {}", of.get_name())),
        );
        if let Some(kind) = self.source_kind.to_possible_value().filter(|_| self.source_kind != Kind::Auto) {
            words.push(format!("--source-kind {}", kind.get_name()));
        }
        words.join(" ")
    }
}

/// What stands behind an entry, and with which scheme and user its nodes are reached.
async fn find(entry: &str, login: impl Fn(&str, &str) -> Result<Endpoint>) -> Result<(Found, &'static str, String)> {
    let text = |path: &str| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    if let Some(rest) = entry.strip_prefix("http://") {
        return Ok((discover::dashboard(rest.trim_end_matches('/')).await?, "redis", String::new()));
    }
    let (path, pool) = entry.split_once('#').map_or((entry, None), |(path, pool)| (path, Some(pool)));
    if path.ends_with(".yml") || path.ends_with(".yaml") {
        return Ok((discover::twemproxy(&text(path)?, pool)?, "redis", String::new()));
    }
    if path.ends_with(".json") {
        return Ok((discover::codis(&text(path)?)?, "redis", String::new()));
    }
    let Address { tls, username, .. } = Address::parse(entry)?;
    let found = discover::server(&login("discover", entry)?, &login("source", entry)?).await?;
    let user = if username.is_empty() { username } else { format!("{username}@") };
    Ok((found, if tls { "rediss" } else { "redis" }, user))
}

/// Prints what was found, and what is going to be read.
pub(crate) fn tell(resolved: &Resolved, json: bool) {
    let kind = resolved.topology.as_ref().map(Topology::kind).unwrap_or_default();
    let kind = kind.as_str_name().trim_start_matches("SOURCE_KIND_").to_lowercase();
    if json {
        let sources = resolved.urls.iter().zip(&resolved.about);
        let sources: Vec<_> =
            sources.map(|((url, _), about)| serde_json::json!({"url": url, "about": about})).collect();
        println!("{}", serde_json::json!({"event": "discovered", "kind": kind, "sources": sources}));
        return;
    }
    eprintln!("found: {kind}, {} to read", resolved.urls.len());
    for ((url, _), about) in resolved.urls.iter().zip(&resolved.about) {
        eprintln!("  {url}  {about}");
    }
}

/// `dts discover`.
#[derive(Debug, Args)]
pub(crate) struct Discover {
    /// As for `--discover`.
    entry: String,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tls: TlsArguments,
}

pub(crate) async fn run(arguments: Discover, given: argv::Secrets) -> Result<()> {
    let sources = Sources {
        source: Vec::new(),
        sources_file: None,
        discover: Some(arguments.entry),
        source_kind: Kind::Auto,
        strays: None,
    };
    let resolved = sources.resolve(|option, url| login(option, url, &given, None, &arguments.tls)).await?;
    tell(&resolved, arguments.json);
    Ok(())
}

/// A server as this process reaches it: the password of the URL, or that of the environment. Of a sentinel's URL it is the sentinel's.
pub(crate) fn login(
    option: &str,
    url: &str,
    given: &argv::Secrets,
    file: Option<&str>,
    tls: &TlsArguments,
) -> Result<Endpoint> {
    reach(&[option, "discover"], url, given, file, "DTS_SOURCE_PASSWORD", |on| tls.source(on))
}

/// The same of the target.
pub(crate) fn login_at_target(
    url: &str,
    given: &argv::Secrets,
    file: Option<&str>,
    tls: &TlsArguments,
) -> Result<Endpoint> {
    reach(&["target"], url, given, file, "DTS_TARGET_PASSWORD", |on| tls.target(on))
}

fn reach(
    options: &[&str],
    url: &str,
    given: &argv::Secrets,
    file: Option<&str>,
    variable: &str,
    tls: impl Fn(bool) -> Result<Option<v1::Tls>>,
) -> Result<Endpoint> {
    let Address { tls: on, host, port, username, password } = Address::parse(url)?;
    let password = match file {
        Some(path) => Some(read_file(path)?),
        None => {
            let handed = options.iter().find_map(|option| given.passwords.get(&argv::name_of(option, url)).cloned());
            handed.or(password).or_else(|| std::env::var(variable).ok())
        }
    };
    let mut secrets = dts_agent::secret::Secrets::default();
    let secret = password.map(|password| {
        secrets.insert("login", password.into());
        Secret::AgentSecret("login".into())
    });
    let credential =
        (secret.is_some() || !username.is_empty()).then_some(v1::Credential { username, secret, password_set: false });
    Ok(secrets.resolve(&v1::Endpoint { host, port, credential, tls: tls(on)?, ..v1::Endpoint::default() })?)
}
