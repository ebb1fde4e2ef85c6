//! Letting users of the target back in whom a switch-over in the other direction has closed out: each server has its own.

use std::collections::BTreeMap;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::ClosedUser;

use super::{address, at, close};
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::pipeline::Job;
use crate::target::Destination;
use crate::verify::destination;

pub(super) async fn reopen(job: &Job, users: &[ClosedUser]) -> Result<()> {
    let mut by_server: BTreeMap<&str, Vec<ClosedUser>> = BTreeMap::new();
    for user in users {
        by_server.entry(&user.server).or_default().push(user.clone());
    }
    let target = destination(job).await?;
    for (name, users) in by_server {
        let server = match (&target, address(name)) {
            (Destination::Cluster(_), Some((host, port))) => at(&job.target, host, port),
            // It has been found anew, if it moved.
            _ => job.target.clone(),
        };
        match Client::connect(&server, Side::Target).await {
            Ok(mut client) => close::open(&mut client, &users).await?,
            Err(error) => {
                if !is_gone(&target, &server).await? {
                    return Err(error);
                }
                // Its replica has taken over, which had nobody closed out.
                tracing::warn!(%server, %error, "its users are not let back in: it is no master any more");
            }
        }
    }
    Ok(())
}

async fn is_gone(target: &Destination, server: &Endpoint) -> Result<bool> {
    let masters = target.servers().await?;
    if masters.is_empty() {
        return Err(Error::new(Code::TargetBusy, "the target has no master"));
    }
    Ok(!masters.iter().any(|master| master.is_at(server)))
}
