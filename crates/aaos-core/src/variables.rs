//! Environment variables that a manifest names, for the programs of its agent.
//!
//! Invariants: a value of these types is bounded and holds no NUL; no name among them tells the loader which code to load,
//! where a proxy is, or is one of aaOS's own. Values are no secrets: whoever reads the journal reads them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_VARIABLE_BYTES, MAX_VARIABLES};

/// Variables by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Variables(BTreeMap<String, String>);

/// Why variables were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// More of them than programs are given.
    #[error("{found} variables are more than {MAX_VARIABLES}; put what is long into a file")]
    TooMany {
        /// How many there are.
        found: usize,
    },
    /// Names and values are too long together.
    #[error(
        "names and values have {found} bytes together, more than {MAX_VARIABLE_BYTES}; put what is long into a file"
    )]
    TooLong {
        /// How long they are.
        found: usize,
    },
    /// A name that is none.
    #[error("{name:?} names no variable; letters, digits and _ do, with no digit first")]
    Name {
        /// As written.
        name: String,
    },
    /// A name that is not a manifest's to give.
    #[error("{name} is not a manifest's to set: {why}; leave it out")]
    Reserved {
        /// Which.
        name: String,
        /// Whose it is.
        why: &'static str,
    },
    /// A value that no program can be given.
    #[error("the value of {name} holds a NUL; leave it out")]
    Nul {
        /// Whose value.
        name: String,
    },
}

impl Variables {
    /// Checks variables.
    ///
    /// # Errors
    /// [`VariableError`] for too many or too long ones, and for names that are none or not a manifest's.
    pub fn new(all: BTreeMap<String, String>) -> Result<Self, VariableError> {
        if all.len() > MAX_VARIABLES {
            return Err(VariableError::TooMany { found: all.len() });
        }
        let bytes: usize = all.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_VARIABLE_BYTES {
            return Err(VariableError::TooLong { found: bytes });
        }
        for (name, value) in &all {
            check_name(name)?;
            if value.contains('\0') {
                return Err(VariableError::Nul { name: name.clone() });
            }
        }
        Ok(Self(all))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Name and value of each, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Each as a program is given it: `NAME=value`.
    #[must_use]
    pub fn assignments(&self) -> Vec<String> {
        self.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// The first name that is not here with the same value.
    #[must_use]
    pub fn first_beyond<'a>(&self, inner: &'a Self) -> Option<&'a str> {
        inner
            .iter()
            .find(|(name, value)| self.0.get(*name).is_none_or(|own| own != value))
            .map(|(name, _)| name)
    }
}

impl TryFrom<BTreeMap<String, String>> for Variables {
    type Error = VariableError;
    fn try_from(all: BTreeMap<String, String>) -> Result<Self, VariableError> {
        Self::new(all)
    }
}

impl From<Variables> for BTreeMap<String, String> {
    fn from(variables: Variables) -> Self {
        variables.0
    }
}

fn check_name(name: &str) -> Result<(), VariableError> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(is_word) || name.as_bytes()[0].is_ascii_digit() {
        return Err(VariableError::Name { name: crate::capability::cut(name) });
    }
    match reserved(name) {
        Some(why) => Err(VariableError::Reserved { name: name.to_owned(), why }),
        None => Ok(()),
    }
}

/// Whose a name is that no manifest sets.
fn reserved(name: &str) -> Option<&'static str> {
    let upper = name.to_ascii_uppercase();
    if upper.starts_with("LD_") || LOADING.contains(&upper.as_str()) {
        return Some("it tells the loader or the C library which code to load");
    }
    if upper.ends_with("_PROXY") {
        return Some("where a proxy is, aaOS says");
    }
    upper.starts_with("AAOS_").then_some("it is one of aaOS's own")
}

/// Variables that have code loaded, beside those of the loader.
const LOADING: [&str; 3] = ["GCONV_PATH", "GLIBC_TUNABLES", "LOCPATH"];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{VariableError, Variables};
    use crate::limits::{MAX_VARIABLE_BYTES, MAX_VARIABLES};

    fn of(pairs: &[(&str, &str)]) -> Result<Variables, VariableError> {
        Variables::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn names_are_those_that_every_program_understands() {
        for name in ["A", "_", "a1_B", "PATH", "LDFLAGS", "MY_LD_PATH", "PROXY", "GIT_DIR", "AAOS"] {
            assert!(of(&[(name, "x")]).is_ok(), "{name}");
        }
        for name in ["", "1A", "A-B", "A B", "A=B", "Ä", "A\0", "A\n"] {
            assert!(matches!(of(&[(name, "x")]), Err(VariableError::Name { .. })), "{name:?}");
        }
    }

    #[test]
    fn what_loads_code_or_belongs_to_aaos_is_nobody_s_to_set() {
        for name in [
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "ld_preload",
            "LD_",
            "GLIBC_TUNABLES",
            "GCONV_PATH",
            "LOCPATH",
            "http_proxy",
            "HTTPS_PROXY",
            "no_proxy",
            "All_Proxy",
            "AAOS_STATE_DIR",
            "aaos_x",
        ] {
            let refused = of(&[("FINE", "x"), (name, "x")]).expect_err("reserved");
            assert!(
                matches!(&refused, VariableError::Reserved { name: found, .. } if found == name),
                "{refused}"
            );
        }
    }

    #[test]
    fn they_are_bounded() {
        let many =
            |count: usize| (0..count).map(|n| (format!("V{n}"), String::new())).collect::<BTreeMap<_, _>>();
        assert!(Variables::new(many(MAX_VARIABLES)).is_ok());
        let found = MAX_VARIABLES + 1;
        assert_eq!(Variables::new(many(found)), Err(VariableError::TooMany { found }));
        assert!(of(&[("A", &"x".repeat(MAX_VARIABLE_BYTES - 1))]).is_ok());
        let found = MAX_VARIABLE_BYTES + 1;
        assert_eq!(of(&[("A", &"x".repeat(MAX_VARIABLE_BYTES))]), Err(VariableError::TooLong { found }));
        assert_eq!(of(&[("A", "x\0")]), Err(VariableError::Nul { name: "A".to_owned() }));
    }

    #[test]
    fn they_are_given_and_compared_whole() {
        let outer = of(&[("B", "2 3"), ("A", "1")]).expect("fine");
        assert_eq!(outer.assignments(), ["A=1", "B=2 3"]);
        let beyond =
            |pairs: &[(&str, &str)]| outer.first_beyond(&of(pairs).expect("fine")).map(str::to_owned);
        assert_eq!(beyond(&[("A", "1")]), None);
        assert_eq!(beyond(&[("A", "1"), ("B", "2 3")]), None);
        assert_eq!(beyond(&[("A", "2")]), Some("A".to_owned()));
        assert_eq!(beyond(&[("B", "2 3"), ("C", "")]), Some("C".to_owned()));
        assert!(Variables::default().is_empty() && !outer.is_empty());
    }

    #[test]
    fn what_is_read_back_is_checked_again() {
        let written = serde_json::to_string(&of(&[("A", "1")]).expect("fine")).expect("written");
        assert_eq!(written, r#"{"A":"1"}"#);
        assert_eq!(
            serde_json::from_str::<Variables>(&written).expect("read"),
            of(&[("A", "1")]).expect("fine")
        );
        assert!(serde_json::from_str::<Variables>(r#"{"LD_PRELOAD":"x"}"#).is_err());
    }
}
