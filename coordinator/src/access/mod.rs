//! Who calls, and what they may: decided in one place, before any service sees the call.
//!
//! People have a role by a name in their certificate; agents are known by theirs and may do nothing but serve as agents; coordinators hand
//! calls on in the name of who called them. Without `--client-ca` nobody is asked, and everybody may do everything.

pub mod authority;
pub mod caller;
pub mod certificate;
pub mod guard;
pub mod roles;
pub mod way;

use std::sync::Arc;

use dts_common::error::{Code, Error, Result};
use tonic::body::Body;
use tonic::codegen::http::Request;

pub use caller::Caller;
pub use roles::{Role, Roles};

use self::certificate::names;

/// Where somebody without a certificate may go, to get one.
const ENROL: &str = "/dts.v1.EnrolmentService/Enrol";
const AGENTS: [&str; 2] = ["/dts.v1.AgentService/", "/dts.v1.EnrolmentService/"];

/// What is asked of those who call.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Certificates are asked for.
    pub asks: bool,
    /// Who may what.
    pub roles: Arc<Roles>,
    /// Names in the certificates of other coordinators.
    pub peers: Arc<Vec<String>>,
}

impl Access {
    /// Who stands behind a request, whoever hands it on. Afterwards the request says no more than is true.
    pub fn caller(&self, request: &mut Request<Body>) -> Caller {
        let direct = Caller::of_connection(request);
        let handed_on = caller::take(request);
        let is_peer = direct.certificate.as_ref().is_some_and(|certificate| {
            !certificate.agent && self.peers.iter().any(|peer| names(&certificate.der, peer))
        });
        match handed_on {
            // Nobody's certificate was shown to the other one: its own does not count.
            Some(caller) if is_peer => caller,
            _ => direct,
        }
    }

    /// Refuses a call that this caller may not make.
    pub fn allow(&self, path: &str, caller: &Caller) -> Result<()> {
        if !self.asks {
            return Ok(());
        }
        let refused = |message: String| Err(Error::new(Code::PermissionDenied, message));
        let Some(certificate) = &caller.certificate else {
            if path == ENROL {
                return Ok(());
            }
            return Err(Error::new(Code::Unauthenticated, "this coordinator asks for a certificate"));
        };
        let of_agents = AGENTS.iter().any(|service| path.starts_with(service));
        if certificate.agent && !of_agents {
            return refused(format!("{} is an agent, and may do nothing else", certificate.who()));
        }
        // Else a person could have passwords sent to them.
        if of_agents && self.roles.named(certificate).is_some() {
            return refused(format!("{} is a person here, and no agent", certificate.who()));
        }
        let Some(needed) = roles::needed(path).filter(|_| !of_agents) else { return Ok(()) };
        match self.roles.of(certificate) {
            Some(role) if role >= needed => Ok(()),
            Some(role) => {
                let (who, method) = (certificate.who(), roles::method(path));
                refused(format!("{who} is a {role}; {method} takes a {needed}, or more"))
            }
            None => refused("the certificate of this client names no operator of this coordinator".into()),
        }
    }
}
