//! Servers in a task file: how to reach them, and how to log in. A password is named, and never stands there.

use dts_proto::v1::credential::Secret;
use dts_proto::v1::{Credential, Endpoint, Network, Tls};

use super::reader::{Fields, Reader};
use super::tree::{Node, What};

pub(super) const NODE: &[&str] = &["instance", "address", "port", "user", "password", "tls", "access"];
pub(super) const TARGET: &[&str] = &["instance", "address", "port", "user", "password", "tls", "access", "routes"];
pub(super) const ACCESS: &[&str] = &["kind", "region"];
pub(super) const TLS: &[&str] = &["ca_file", "certificate_file", "key_file", "server_name", "insecure_skip_verify"];
pub(super) const NETWORKS: &[(&str, Network)] = &[
    ("any", Network::Unspecified),
    ("cvm", Network::Cvm),
    ("public", Network::Public),
    ("dc", Network::Dc),
    ("vpn", Network::Vpn),
    ("ccn", Network::Ccn),
];
/// Stands for a password that the task holds.
pub(super) const STORED: &str = "stored";
pub(super) const REFERENCES: &str =
    "`env:VARIABLE` (of the agent), `file:PATH` (on the agent's host) or `secret:NAME` (of `dts agent --secret`)";
const LONGEST: usize = 128;

impl Reader {
    /// One server; `access` is what holds if it says nothing of its own.
    pub(super) fn server(
        &mut self,
        name: &str,
        node: &Node,
        known: &[&str],
        access: Option<&Endpoint>,
    ) -> Option<Endpoint> {
        let fields = self.fields(name, node, known)?;
        let address = self.required(name, fields, "address", "10.0.0.5");
        let host = address.and_then(|node| self.text("address", node)).unwrap_or_default().to_owned();
        if let Some(node) =
            address.filter(|_| host.contains([':', '/', '@', ' ']) && host.parse::<std::net::IpAddr>().is_err())
        {
            self.wrong(
                node.at,
                "address is a name or an IP address alone; port, user and password have fields of their own",
            );
        }
        let port = self.required(name, fields, "port", "6379");
        let port = port.and_then(|node| self.number("port", node, 1, 65535)).unwrap_or_default();
        let instance = fields.get("instance").and_then(|node| {
            self.parsed("instance", node, |text| match text.len() {
                1..=LONGEST => Ok(text.to_owned()),
                _ => Err(format!("1 to {LONGEST} bytes")),
            })
        });
        let mut end = Endpoint {
            host,
            port,
            credential: self.credential(fields),
            tls: fields.get("tls").and_then(|node| self.tls(node)),
            instance_id: instance.unwrap_or_default(),
            routes: fields.get("routes").and_then(|node| self.flag("routes", node)).unwrap_or_default(),
            ..access.cloned().unwrap_or_default()
        };
        if let Some(own) = fields.get("access").and_then(|node| self.access(node)) {
            (end.network, end.region) = (own.network, own.region);
        }
        Some(end)
    }

    /// Network and region, on an endpoint that says nothing else.
    pub(super) fn access(&mut self, node: &Node) -> Option<Endpoint> {
        let fields = self.fields("access", node, ACCESS)?;
        let kind = fields.get("kind").and_then(|node| self.one_of("kind", node, NETWORKS));
        let region = fields.get("region").and_then(|node| self.text("region", node));
        Some(Endpoint {
            network: kind.unwrap_or_default().into(),
            region: region.unwrap_or_default().to_owned(),
            ..Endpoint::default()
        })
    }

    fn credential(&mut self, fields: Fields<'_>) -> Option<Credential> {
        let user = fields.get("user").and_then(|node| self.text("user", node)).map(str::to_owned);
        let (secret, password_set) = match fields.get("password") {
            None => (None, false),
            Some(node) => self.password(node),
        };
        let said = user.is_some() || secret.is_some() || password_set;
        said.then(|| Credential { username: user.unwrap_or_default(), secret, password_set })
    }

    fn password(&mut self, node: &Node) -> (Option<Secret>, bool) {
        // What stands there may be a password: it is never repeated.
        let Some(text) = self.text("password", node) else { return (None, false) };
        let secret = match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Secret::PasswordEnv(name.to_owned()),
            Some(("file", path)) if path.starts_with('/') => Secret::PasswordFile(path.to_owned()),
            Some(("file", _)) => {
                self.wrong(node.at, "password: a file is named by its whole path, `file:/…`");
                return (None, false);
            }
            Some(("secret", name)) if !name.is_empty() => Secret::AgentSecret(name.to_owned()),
            _ if text == STORED && self.may_keep_passwords => return (None, true),
            _ if text == STORED => {
                let what =
                    "password: the password that was stored with the first task is not in this file; name one by";
                self.wrong(node.at, format!("{what} {REFERENCES}"));
                return (None, false);
            }
            _ => {
                self.wrong(node.at, format!("password takes {REFERENCES}, and never the password itself"));
                return (None, false);
            }
        };
        (Some(secret), false)
    }

    fn tls(&mut self, node: &Node) -> Option<Tls> {
        if let What::Text(_) = &node.what {
            return self.flag("tls", node)?.then(Tls::default);
        }
        let fields = self.fields("tls", node, TLS)?;
        let mut text = |name: &str| {
            let found = fields.get(name).and_then(|node| self.text(name, node));
            found.unwrap_or_default().to_owned()
        };
        let (ca_file, certificate_file, key_file, server_name) =
            (text("ca_file"), text("certificate_file"), text("key_file"), text("server_name"));
        let skips = fields.get("insecure_skip_verify").and_then(|node| self.flag("insecure_skip_verify", node));
        let tls =
            Tls { ca_file, certificate_file, key_file, server_name, insecure_skip_verify: skips.unwrap_or_default() };
        if tls.certificate_file.is_empty() != tls.key_file.is_empty() {
            self.wrong(fields.at, "tls: certificate_file and key_file go together");
        }
        if tls.insecure_skip_verify && !(tls.ca_file.is_empty() && tls.server_name.is_empty()) {
            self.wrong(
                fields.at,
                "tls: insecure_skip_verify verifies nothing: leave ca_file and server_name out, or it",
            );
        }
        Some(tls)
    }
}
