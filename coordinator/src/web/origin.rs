//! Who may speak to the coordinator out of a browser. Over plain HTTP whoever reaches it can command, and so could every page that somebody opens
//! on this host: one of another origin, or one whose name suddenly means this address (DNS rebinding). Neither can send a request
//! of ours without a header that tells.

use std::net::IpAddr;

/// What is asked of requests that may come from a browser.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The browser has checked our certificate for the name that it asked for.
    pub tls: bool,
    /// Names by which people reach us, besides addresses and localhost.
    pub hosts: Vec<String>,
}

impl Rules {
    /// Fails with what is wrong. `site` is Sec-Fetch-Site, `call` false for pages, which hold nothing of anybody's.
    pub fn admit(
        &self,
        host: Option<&str>,
        origin: Option<&str>,
        site: Option<&str>,
        call: bool,
    ) -> Result<(), String> {
        let host = host.ok_or("the request names no host")?;
        if !self.tls && !self.is_ours(name(host)) {
            return Err(format!(
                "{:?} is not a name of this coordinator: use its address, or start it with --console-host",
                name(host)
            ));
        }
        if let Some(origin) = origin {
            let scheme = if self.tls { "https" } else { "http" };
            if !origin.eq_ignore_ascii_case(&format!("{scheme}://{host}")) {
                return Err(format!("a page of {origin:?} may not call this coordinator"));
            }
        }
        match site {
            Some("cross-site" | "same-site") if call => {
                Err("a page of another site may not call this coordinator".into())
            }
            _ => Ok(()),
        }
    }

    /// An address is nobody else's name.
    fn is_ours(&self, name: &str) -> bool {
        let local = name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
        let named = self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name));
        local || named || name.parse::<IpAddr>().is_ok()
    }
}

/// Without port and brackets.
fn name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_plain_http_only_our_own_names_and_pages_are_let_in() {
        let rules = Rules { tls: false, hosts: vec!["dts.example".into()] };
        let call = |host, origin, site| rules.admit(Some(host), origin, site, true).is_ok();
        for host in
            ["127.0.0.1:7711", "[::1]:7711", "localhost:7711", "LOCALHOST", "a.localhost", "10.0.0.1", "dts.example"]
        {
            assert!(call(host, None, None), "{host}");
        }
        for host in ["evil.example:7711", "127.0.0.1.evil.example", "localhost.evil.example", "", "\u{fffd}"] {
            assert!(!call(host, None, None), "{host} rebinds");
        }
        assert!(call("127.0.0.1:1", Some("http://127.0.0.1:1"), Some("same-origin")));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:2", "https://127.0.0.1:1", "http://127.0.0.1"] {
            assert!(!call("127.0.0.1:1", Some(origin), None), "{origin}");
        }
        for site in ["cross-site", "same-site"] {
            assert!(!call("127.0.0.1:1", None, Some(site)), "{site}");
            assert!(
                rules.admit(Some("127.0.0.1:1"), None, Some(site), false).is_ok(),
                "a link from elsewhere leads nowhere"
            );
        }
        assert!(rules.admit(None, None, None, false).is_err());
    }

    #[test]
    fn over_tls_the_certificate_says_who_we_are() {
        let rules = Rules { tls: true, hosts: Vec::new() };
        assert!(rules.admit(Some("any.example:1"), Some("https://any.example:1"), None, true).is_ok());
        assert!(rules.admit(Some("any.example:1"), Some("http://any.example:1"), None, true).is_err());
        assert!(rules.admit(Some("any.example:1"), Some("https://evil.example"), None, true).is_err());
    }
}
