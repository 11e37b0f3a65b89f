//! The check of the way to another domain as the admin API says it: plain values, JSON on the wire, described by OpenAPI.

use s2s::federation::check::{Outcome, Report};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What was found on the way to another domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DomainCheck {
    /// The domain of ours that would send.
    pub from: String,
    /// The other domain.
    pub domain: String,
    /// Whether a stanza would get there, as far as one can know without sending one.
    pub works: bool,
    /// Every step, in order.
    pub steps: Vec<DomainCheckStep>,
}

/// One step of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DomainCheckStep {
    /// What was looked at.
    pub at: String,
    /// How it went.
    pub outcome: DomainCheckOutcome,
    /// What was found, in words.
    pub words: String,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DomainCheckOutcome {
    /// As it should.
    Good,
    /// A stream can do without it.
    Remark,
    /// Nothing goes on behind it.
    Bad,
}

impl From<Report> for DomainCheck {
    fn from(report: Report) -> Self {
        let steps = report.steps.into_iter().map(|step| DomainCheckStep {
            at: step.at,
            outcome: match step.outcome {
                Outcome::Good => DomainCheckOutcome::Good,
                Outcome::Remark => DomainCheckOutcome::Remark,
                Outcome::Bad => DomainCheckOutcome::Bad,
            },
            words: step.words,
        });
        DomainCheck {
            from: report.ours,
            domain: report.theirs,
            works: report.works,
            steps: steps.collect(),
        }
    }
}
