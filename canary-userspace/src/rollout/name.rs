//! Names of the configuration's and the machine's enums, in files.

use crate::config::rollout::Transition;

/// A value's name in the table of its kind.
pub(super) fn of<T: Copy + PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, other)| *other == value).map_or("", |(name, _)| name)
}

fn find_transition(name: &str) -> Result<Transition, String> {
    let found = Transition::NAMES.iter().find(|(other, _)| *other == name);
    let found = found.map(|(_, transition)| *transition);
    found.ok_or_else(|| format!("{name:?} is no transition of a rollout"))
}

/// For `#[serde(with = …)]`.
pub(super) mod transition {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::config::rollout::Transition;

    pub(in crate::rollout) fn serialize<S: Serializer>(
        transition: &Transition,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(transition.name())
    }

    pub(in crate::rollout) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Transition, D::Error> {
        let name = String::deserialize(deserializer)?;
        super::find_transition(&name).map_err(D::Error::custom)
    }
}

/// The same for one that may be missing.
pub(super) mod maybe_transition {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    use crate::config::rollout::Transition;

    pub(in crate::rollout) fn serialize<S: Serializer>(
        transition: &Option<Transition>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        transition.map(Transition::name).serialize(serializer)
    }

    pub(in crate::rollout) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Transition>, D::Error> {
        let name = Option::<String>::deserialize(deserializer)?;
        name.map(|name| super::find_transition(&name)).transpose().map_err(D::Error::custom)
    }
}
