//! Absolute paths and path patterns, matched on whole components.
//!
//! Invariants: an [`AbsPath`] starts with `/`, holds no NUL, no empty component and no `.` component. It
//! may hold `..`, which no function here resolves: only the kernel does, beneath a granted descriptor.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::MAX_PATH_BYTES;

/// Why a path or a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Empty text.
    #[error("path is empty")]
    Empty,
    /// Not absolute.
    #[error("path {path:?} is not absolute; start it with '/'")]
    Relative {
        /// The text.
        path: String,
    },
    /// Longer than the kernel takes.
    #[error("path is longer than {MAX_PATH_BYTES} bytes")]
    TooLong,
    /// A NUL byte.
    #[error("path holds a NUL byte")]
    Nul,
    /// `..` where a pattern is written.
    #[error("pattern {pattern:?} holds '..'; write the directory itself")]
    ParentInPattern {
        /// The text.
        pattern: String,
    },
    /// A glob other than one trailing `/*`.
    #[error(
        "pattern {pattern:?} is not usable: only an exact path or a trailing '/*' is; nearest: {nearest:?}"
    )]
    Glob {
        /// The text.
        pattern: String,
        /// The nearest valid spelling.
        nearest: String,
    },
    /// A slash at the end.
    #[error("pattern {pattern:?} ends with '/'; write {nearest:?} for the directory's contents")]
    TrailingSlash {
        /// The text.
        pattern: String,
        /// The nearest valid spelling.
        nearest: String,
    },
}

/// An absolute path. Double slashes and `.` are dropped when it is parsed; `..` is kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AbsPath(String);

impl AbsPath {
    /// Parses an absolute path.
    ///
    /// # Errors
    /// [`PathError`] when it is empty, relative, too long or holds NUL.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        if text.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        if text.contains('\0') {
            return Err(PathError::Nul);
        }
        if !text.starts_with('/') {
            return Err(PathError::Relative { path: text.to_owned() });
        }
        let mut clean = String::with_capacity(text.len());
        for component in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
            clean.push('/');
            clean.push_str(component);
        }
        if clean.is_empty() {
            clean.push('/');
        }
        Ok(Self(clean))
    }

    /// What `text` names from `directory`, by spelling alone: each `..` takes the component before it away. `None` when
    /// it is no path, or is relative and there is no directory.
    #[must_use]
    pub fn resolve(text: &str, directory: Option<&Self>) -> Option<Self> {
        let whole = match text.starts_with('/') {
            true => Self::parse(text).ok()?,
            false => Self::parse(&format!("{}/{text}", directory?)).ok()?,
        };
        let mut parts: Vec<&str> = Vec::new();
        for part in whole.components() {
            if part == ".." {
                parts.pop();
            } else {
                parts.push(part);
            }
        }
        Some(Self(format!("/{}", parts.join("/"))))
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its components, root first; none for `/`.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }

    /// What remains of this path below `root`, without a leading slash: `Some("")` for the root itself,
    /// `None` when `root` is not a whole-component prefix of the spelling.
    #[must_use]
    pub fn below(&self, root: &Self) -> Option<&str> {
        if root.0 == "/" {
            return Some(&self.0[1..]);
        }
        let rest = self.0.strip_prefix(root.0.as_str())?;
        if rest.is_empty() { Some("") } else { rest.strip_prefix('/') }
    }

    /// The directory that holds it and its last component; `None` for `/`.
    #[must_use]
    pub fn split_last(&self) -> Option<(Self, &str)> {
        let (parent, name) = self.0.rsplit_once('/')?;
        if name.is_empty() {
            return None;
        }
        let parent = if parent.is_empty() { "/" } else { parent };
        Some((Self(parent.to_owned()), name))
    }

    /// Whether any component is `..`.
    #[must_use]
    pub fn has_parent_component(&self) -> bool {
        self.components().any(|part| part == "..")
    }
}

impl fmt::Display for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl FromStr for AbsPath {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for AbsPath {
    type Error = PathError;
    fn try_from(text: String) -> Result<Self, PathError> {
        Self::parse(&text)
    }
}

impl From<AbsPath> for String {
    fn from(path: AbsPath) -> String {
        path.0
    }
}

impl schemars::JsonSchema for AbsPath {
    fn schema_name() -> Cow<'static, str> {
        "AbsPath".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string", "minLength": 1, "maxLength": MAX_PATH_BYTES,
            "pattern": "^/", "description": "An absolute path."
        })
    }
    fn inline_schema() -> bool {
        true
    }
}

/// How far a pattern reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// That one file.
    Exact,
    /// The directory and everything below it.
    Subtree,
}

/// A file pattern of the capability grammar: an exact path, or a directory's subtree (`/dir/*`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern {
    root: AbsPath,
    reach: Reach,
}

impl PathPattern {
    /// Parses a pattern of SPEC §2. `*` alone means `/*`.
    ///
    /// # Errors
    /// [`PathError`] for every other glob, a relative or empty path, `..` or a trailing slash.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text == "*" || text == "/*" {
            return Ok(Self { root: AbsPath("/".to_owned()), reach: Reach::Subtree });
        }
        let (body, reach) = match text.strip_suffix("/*") {
            Some(body) => (body, Reach::Subtree),
            None => (text, Reach::Exact),
        };
        if body.contains('*') || body.contains('?') || body.contains('[') {
            return Err(PathError::Glob { pattern: text.to_owned(), nearest: nearest_glob(body) });
        }
        if body.ends_with('/') {
            let nearest = format!("{}/*", body.trim_end_matches('/'));
            return Err(PathError::TrailingSlash { pattern: text.to_owned(), nearest });
        }
        let root = AbsPath::parse(body)?;
        if root.has_parent_component() {
            return Err(PathError::ParentInPattern { pattern: text.to_owned() });
        }
        Ok(Self { root, reach })
    }

    /// A pattern from its parts, for a root that the kernel resolved.
    #[must_use]
    pub fn from_parts(root: AbsPath, reach: Reach) -> Self {
        debug_assert!(!root.has_parent_component(), "a resolved root holds no '..'");
        Self { root, reach }
    }

    /// The directory (subtree) or file (exact).
    #[must_use]
    pub fn root(&self) -> &AbsPath {
        &self.root
    }

    /// How far it reaches.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// Whether the spelling of `path` lies under this pattern: the remainder below the root (`""` for the
    /// root itself). The remainder may still hold `..`; the kernel refuses it if it leads out.
    #[must_use]
    pub fn matches<'p>(&self, path: &'p AbsPath) -> Option<&'p str> {
        let rest = path.below(&self.root)?;
        match self.reach {
            Reach::Exact if rest.is_empty() => Some(rest),
            Reach::Exact => None,
            Reach::Subtree => Some(rest),
        }
    }

    /// Whether everything that `other` matches is matched here.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self.reach, other.reach) {
            (Reach::Exact, Reach::Exact) => self.root == other.root,
            (Reach::Exact, Reach::Subtree) => false,
            (Reach::Subtree, _) => other.root.below(&self.root).is_some(),
        }
    }
}

/// The subtree of the last directory before the first glob character.
fn nearest_glob(body: &str) -> String {
    let literal: Vec<&str> = body
        .split('/')
        .take_while(|part| !part.contains(['*', '?', '[']))
        .filter(|part| !part.is_empty())
        .collect();
    if literal.is_empty() { "/*".to_owned() } else { format!("/{}/*", literal.join("/")) }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.reach, self.root.as_str()) {
            (Reach::Exact, root) => f.write_str(root),
            (Reach::Subtree, "/") => f.write_str("/*"),
            (Reach::Subtree, root) => write!(f, "{root}/*"),
        }
    }
}

impl fmt::Debug for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl TryFrom<String> for PathPattern {
    type Error = PathError;
    fn try_from(text: String) -> Result<Self, PathError> {
        Self::parse(&text)
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> String {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{AbsPath, PathError, PathPattern};

    fn pattern(text: &str) -> PathPattern {
        PathPattern::parse(text).expect(text)
    }

    #[test]
    fn spelling_resolves_without_leaving_the_root() {
        let directory = AbsPath::parse("/a/b").expect("absolute");
        let resolved = |text| AbsPath::resolve(text, Some(&directory)).map(|path| path.to_string());
        assert_eq!(resolved("c"), Some("/a/b/c".into()));
        assert_eq!(resolved("../c"), Some("/a/c".into()));
        assert_eq!(resolved("../../../../c"), Some("/c".into()));
        assert_eq!(resolved("/.."), Some("/".into()));
        assert_eq!(resolved("a\0"), None);
        assert_eq!(AbsPath::resolve("c", None), None);
        assert_eq!(AbsPath::resolve("/c/../d", None), AbsPath::parse("/d").ok());
    }

    fn path(text: &str) -> AbsPath {
        AbsPath::parse(text).expect(text)
    }

    #[test]
    fn a_subtree_matches_whole_components() {
        assert_eq!(pattern("/data/*").matches(&path("/data/x/y")), Some("x/y"));
        assert_eq!(pattern("/data/*").matches(&path("/data")), Some(""));
        assert_eq!(pattern("/data/*").matches(&path("/data-x")), None);
        assert_eq!(pattern("/data/*").matches(&path("//data//./x")), Some("x"));
        assert_eq!(pattern("/*").matches(&path("/anything/at/all")), Some("anything/at/all"));
        assert_eq!(pattern("*").matches(&path("/")), Some(""));
        assert_eq!(pattern("/data/f").matches(&path("/data/f")), Some(""));
        assert_eq!(pattern("/data/f").matches(&path("/data/f/g")), None);
    }

    #[test]
    fn parents_stay_for_the_kernel() {
        assert_eq!(pattern("/data/*").matches(&path("/data/../etc/passwd")), Some("../etc/passwd"));
    }

    #[test]
    fn unusable_patterns_are_refused_with_the_nearest() {
        for bad in ["/a/**", "/a/*/b", "/a/b*", "/a?/x", "a/b", "", "/a/", "/a//*x", "/a/../b/*", "/a/[x]"] {
            assert!(PathPattern::parse(bad).is_err(), "{bad}");
        }
        let Err(PathError::Glob { nearest, .. }) = PathPattern::parse("/a/b/**") else {
            panic!("a glob error");
        };
        assert_eq!(nearest, "/a/b/*");
    }

    #[test]
    fn covering_is_by_component() {
        assert!(pattern("/a/*").covers(&pattern("/a/b/*")));
        assert!(pattern("/a/*").covers(&pattern("/a/*")));
        assert!(pattern("/a/*").covers(&pattern("/a/b")));
        assert!(!pattern("/a/*").covers(&pattern("/ab/*")));
        assert!(!pattern("/a/b").covers(&pattern("/a/b/*")));
        assert!(!pattern("/a/b/*").covers(&pattern("/a/*")));
    }

    #[test]
    fn display_round_trips() {
        for text in ["/*", "/a/*", "/a/b"] {
            assert_eq!(pattern(text).to_string(), text);
        }
    }
}
