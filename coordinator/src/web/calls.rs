//! What may be called: every method of `dts.v1`, by its descriptor.

use std::collections::HashMap;

use dts_common::error::{Code, Error, Result};
use prost_reflect::{DescriptorPool, MethodDescriptor};

/// The methods by their paths.
pub struct Calls(HashMap<String, MethodDescriptor>);

impl Calls {
    /// Those of the API.
    pub fn new() -> Result<Self> {
        let pool = DescriptorPool::decode(dts_proto::DESCRIPTOR_SET)
            .map_err(|error| Error::new(Code::Internal, format!("the descriptors: {error}")))?;
        let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
        let path = |method: &MethodDescriptor| format!("/{}/{}", method.parent_service().full_name(), method.name());
        Ok(Self(methods.map(|method| (path(&method), method)).collect()))
    }

    pub(super) fn find(&self, path: &str) -> Option<&MethodDescriptor> {
        self.0.get(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_its_path() {
        let calls = Calls::new().unwrap();
        assert!(calls.find("/dts.v1.TaskService/WatchTask").unwrap().is_server_streaming());
        assert!(calls.find("/dts.v1.AgentService/Session").unwrap().is_client_streaming());
        assert!(calls.find("/dts.v1.TaskService/Nothing").is_none());
    }
}
