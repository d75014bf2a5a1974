//! The models that an agent offers for a session: among its configuration options, the one of the category `model`.

use agent_client_protocol::{
    Agent, Error as Refusal,
    v1::{
        ConnectionTo,
        schema::{
            SessionConfigId, SessionConfigKind, SessionConfigOption, SessionConfigOptionCategory,
            SessionConfigSelectOptions, SessionId, SetSessionConfigOptionRequest,
        },
    },
};

/// Models that are named where one is refused, at most.
const NAMED: usize = 20;

/// What an agent lets its client choose from.
#[derive(Debug)]
pub(super) struct Models {
    option: SessionConfigId,
    offered: Vec<String>,
    /// The agent's own choice.
    own: String,
    /// Whether it was set to another.
    set: bool,
}

/// Why a model was not set.
pub(super) enum Unset {
    /// It is not offered.
    Unknown(String),
    /// The agent refuses it.
    Refused(Refusal),
}

impl Models {
    /// The models among the options of a session. None where the agent lets nobody choose.
    pub(super) fn among(options: Option<Vec<SessionConfigOption>>) -> Option<Self> {
        let model = Some(SessionConfigOptionCategory::Model);
        let option = options?.into_iter().find(|option| option.category == model)?;
        let SessionConfigKind::Select(select) = option.kind else { return None };
        let offered = match select.options {
            SessionConfigSelectOptions::Ungrouped(options) => options,
            SessionConfigSelectOptions::Grouped(groups) => groups.into_iter().flat_map(|group| group.options).collect(),
            _ => return None,
        };
        let offered = offered.iter().map(|model| model.value.0.to_string()).collect();
        Some(Self { option: option.id, offered, own: select.current_value.0.to_string(), set: false })
    }

    /// Sets the session to a model; none is for the agent's own choice. The agent may have changed it meanwhile: one
    /// that is named is set each time.
    pub(super) async fn set(
        &mut self,
        agent: &ConnectionTo<Agent>,
        session: &SessionId,
        model: Option<&str>,
    ) -> Result<(), Unset> {
        if model.is_none() && !self.set {
            return Ok(());
        }
        let wanted = model.unwrap_or(&self.own).to_owned();
        if !self.offered.contains(&wanted) {
            return Err(Unset::Unknown(self.unknown(&wanted)));
        }
        let set = SetSessionConfigOptionRequest::new(session.clone(), self.option.clone(), wanted.as_str());
        agent.send_request(set).block_task().await.map_err(Unset::Refused)?;
        self.set = model.is_some();
        Ok(())
    }

    fn unknown(&self, wanted: &str) -> String {
        let named = self.offered.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = match self.offered.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("the agent has no model '{wanted}'; it offers {named}{more}")
    }
}
