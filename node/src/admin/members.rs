//! Members of the platform that are gone for good, and votes, as the admin API is told of them: plain values, JSON on the wire, described by OpenAPI.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `PUT /admin/nodes/{name}/vote`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewVote {
    /// Whether it votes in the metadata group.
    pub votes: bool,
}
