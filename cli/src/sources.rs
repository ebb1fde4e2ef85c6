//! The sources of a task as arguments: one by one, or in a file.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use dts_agent::discover::{self, Found, Mode};
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
    /// What the sources are to each other. `auto` asks them: of a cluster's node or a sentinel the rest is found, as by `--discover`;
    /// it takes files of twemproxy and codis too.
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
    /// What each is; empty if nobody looked.
    pub(crate) about: Vec<String>,
    /// What they were found from; `None` if they were listed.
    pub(crate) entry: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// What they say that they are.
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

    /// Lists the sources, or finds them. `login` resolves a URL with what this host knows of passwords.
    pub(crate) async fn resolve(&self, login: impl Fn(&str, &str) -> Result<Endpoint>) -> Result<Resolved> {
        let strays = match self.strays {
            None => v1::Strays::Unspecified,
            Some(Strays::Stop) => v1::Strays::Stop,
            Some(Strays::Drop) => v1::Strays::Drop,
        };
        let option = if self.discover.is_some() { "discover" } else { "source" };
        let given = match (&self.discover, self.source_kind) {
            (Some(entry), _) => Given::Entry(entry.clone()),
            (None, Kind::Auto) => ask(self.urls()?, &login).await,
            (None, Kind::Standalone) => Given::listed(SourceKind::Standalone, self.urls()?),
            (None, Kind::Cluster) => Given::listed(SourceKind::Cluster, self.urls()?),
        };
        let entry = match given {
            Given::Entry(entry) => entry,
            Given::Listed { kind, urls, about } => {
                let plain = kind == SourceKind::Standalone && strays == v1::Strays::Unspecified;
                let topology = Topology { kind: kind.into(), strays: strays.into(), ..Topology::default() };
                let urls = urls.into_iter().map(|url| (url, None)).collect();
                return Ok(Resolved { urls, topology: (!plain).then_some(topology), about, entry: None });
            }
        };
        let (found, scheme, user) =
            find(&entry, option, login).await.map_err(|error| anyhow!("--{option} {entry}: {error:#}"))?;
        let mut topology = Topology { found_by: entry.clone(), strays: strays.into(), ..found.topology };
        if topology.kind() == SourceKind::Sentinel {
            let Address { host, port, .. } = Address::parse(&entry)?;
            topology.sentinels = vec![v1::Endpoint { host, port, ..v1::Endpoint::default() }];
        }
        let url = |source: &discover::Source| {
            let host = if source.host.contains(':') { format!("[{}]", source.host) } else { source.host.clone() };
            format!("{scheme}://{user}{host}:{}", source.port)
        };
        let urls = found.sources.iter().map(|source| (url(source), source.password.clone())).collect();
        let about = found.sources.into_iter().map(|source| source.about).collect();
        Ok(Resolved { urls, topology: Some(topology), about, entry: Some(entry) })
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

/// What the arguments name: sources, or what they are to be found from.
enum Given {
    Entry(String),
    Listed { kind: SourceKind, urls: Vec<String>, about: Vec<String> },
}

impl Given {
    fn listed(kind: SourceKind, urls: Vec<String>) -> Self {
        Self::Listed { kind, urls, about: Vec::new() }
    }
}

/// Who does not answer by then is not asked what it is.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Asks what was listed what it is. What cannot be asked from here counts as a server by itself: the agent, which may reach it, refuses
/// it if it is not.
async fn ask(urls: Vec<String>, login: &impl Fn(&str, &str) -> Result<Endpoint>) -> Given {
    if let [only] = urls.as_slice()
        && (is_file(only) || only.starts_with("http://"))
    {
        return Given::Entry(only.clone());
    }
    let mut modes = Vec::new();
    for url in &urls {
        let asked = async { anyhow::Ok(discover::mode(&login("source", url)?).await?) };
        modes.push(match tokio::time::timeout(ANSWERS_WITHIN, asked).await {
            Ok(Ok(mode)) => Ok(mode),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it does not answer within {} s", ANSWERS_WITHIN.as_secs())),
        });
    }
    let all = |wanted: Mode| modes.iter().all(|mode| mode.as_ref().is_ok_and(|mode| *mode == wanted));
    if urls.len() == 1 && (all(Mode::Cluster) || all(Mode::Sentinel)) {
        return Given::Entry(urls.into_iter().next().unwrap_or_default());
    }
    let kind = if all(Mode::Cluster) { SourceKind::Cluster } else { SourceKind::Standalone };
    let about = modes.iter().map(|mode| match mode {
        Ok(Mode::Standalone) => "a server by itself".to_owned(),
        Ok(Mode::Cluster) => "a node of a cluster".to_owned(),
        Ok(Mode::Sentinel) => "a sentinel".to_owned(),
        Err(why) => format!("taken for a server by itself, it could not be asked from here: {why}"),
    });
    Given::Listed { kind, about: about.collect(), urls }
}

/// True for the name of a file that sources are found in.
fn is_file(entry: &str) -> bool {
    let path = entry.split_once('#').map_or(entry, |(path, _)| path);
    [".yml", ".yaml", ".json"].iter().any(|ending| path.ends_with(ending))
}

/// What stands behind an entry, and with which scheme and user its nodes are reached. `option` is the one that gave it.
async fn find(
    entry: &str,
    option: &str,
    login: impl Fn(&str, &str) -> Result<Endpoint>,
) -> Result<(Found, &'static str, String)> {
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
    let found = discover::server(&login(option, entry)?, &login("source", entry)?).await?;
    let user = if username.is_empty() { username } else { format!("{username}@") };
    Ok((found, if tls { "rediss" } else { "redis" }, user))
}

/// Prints what was found, and what is going to be read.
pub(crate) fn tell(resolved: &Resolved, json: bool) {
    let kind = resolved.topology.as_ref().map_or(SourceKind::Standalone, Topology::kind);
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
