//! The most that a principal's agents may be given.
//!
//! Invariants: whatever a bounded principal's root agent holds, but for its goal's own workspace, is covered by one
//! grant of the ceiling and at least as bounded; the ceiling is compared with the spelling before anything is
//! opened or made, with the path behind every link before a directory is made, and with what was opened in the end.
//! Nothing that is asked for is dropped silently: the whole request is refused.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aaos_core::authority::narrow::covers;
use aaos_core::budget::{Budget, Ceilings};
use aaos_core::capability::{Capability, Constraints, GrantSpec, NameSet};
use aaos_core::id::GoalId;
use aaos_core::manifest::Manifest;
use aaos_core::path::{AbsPath, PathPattern};

use crate::error::KernelError;
use crate::goals::GoalRequest;
use crate::kernel::Kernel;
use crate::principal::Principal;
use crate::spawn::{Origin, off_thread};

/// The grants and amounts that bound a principal.
#[derive(Debug, Clone)]
pub struct Ceiling {
    grants: Vec<CeilingGrant>,
    max: Ceilings,
}

#[derive(Debug, Clone)]
struct CeilingGrant {
    spec: GrantSpec,
    /// The same with links resolved, where that is another path.
    real: Option<Capability>,
}

impl CeilingGrant {
    fn new(spec: GrantSpec) -> Self {
        let real = spec.capability.file_pattern().and_then(real_pattern);
        let real = real.map(|pattern| spec.capability.with_pattern(pattern));
        Self { real: real.filter(|real| *real != spec.capability), spec }
    }

    fn covers(&self, asked: &Capability) -> bool {
        covers(&self.spec.capability, asked) || self.real.as_ref().is_some_and(|real| covers(real, asked))
    }

    /// Whether both cover something.
    fn meets(&self, other: &Capability) -> bool {
        meet(&self.spec.capability, other) || self.real.as_ref().is_some_and(|real| meet(real, other))
    }
}

impl Ceiling {
    /// Nothing may be given.
    pub(crate) const NOTHING: Self = Self { grants: Vec::new(), max: Ceilings::NONE };

    /// A ceiling of these grants and amounts. Directories that it names are looked at now: a link among them means
    /// where it leads at this moment.
    #[must_use]
    pub fn new(grants: Vec<GrantSpec>, max: Ceilings) -> Self {
        Self { grants: grants.into_iter().map(CeilingGrant::new).collect(), max }
    }

    fn covering(&self, asked: &Capability) -> Option<&CeilingGrant> {
        self.grants.iter().find(|grant| grant.covers(asked))
    }

    /// Whether anything that a capability covers is to be had only after a question.
    fn asks_about(&self, opened: &Capability) -> bool {
        let mut asking = self.grants.iter().filter(|grant| grant.spec.constraints.approval_required);
        asking.any(|grant| grant.meets(opened))
    }
}

/// A ceiling at work on one root agent.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    ceiling: Ceiling,
    uid: u32,
    /// Its workspace it may always use.
    goal: Option<GoalId>,
    /// Where the workspaces of all goals lie, as spelled and with links resolved; nobody reaches another goal's.
    workspaces: [PathBuf; 2],
}

impl Bound {
    /// Refuses a capability that the ceiling does not cover.
    pub(crate) fn check(&self, asked: &Capability) -> Result<(), KernelError> {
        if self.is_workspace(asked) || self.ceiling.covering(asked).is_some() {
            return Ok(());
        }
        Err(self.refusal(asked))
    }

    /// The request's constraints with those of the ceiling's grant that covers what was opened.
    pub(crate) fn tighten(
        &self,
        opened: &Capability,
        asked: Constraints,
    ) -> Result<Constraints, KernelError> {
        if self.is_workspace(opened) {
            return Ok(asked);
        }
        let covering = self.ceiling.covering(opened).ok_or_else(|| self.refusal(opened))?;
        let mut bounds = tighter(asked, &covering.spec.constraints);
        // A wider grant of the ceiling is no way round a narrower one that asks.
        bounds.approval_required |= self.ceiling.asks_about(opened);
        Ok(bounds)
    }

    /// The pattern behind every link of a spelling, if the ceiling covers that too. What the answer says does not
    /// depend on what lies outside the ceiling.
    pub(crate) fn real_pattern(&self, asked: &Capability) -> Result<Option<PathPattern>, KernelError> {
        let Some(spelled) = asked.file_pattern() else { return Ok(None) };
        let real = real_pattern(spelled).ok_or_else(|| self.refusal(asked))?;
        let behind = asked.with_pattern(real.clone());
        let root = Path::new(real.root().as_str());
        let foreign = self.workspaces.iter().any(|all| root.starts_with(all));
        if self.is_workspace(&behind) || (self.ceiling.covering(&behind).is_some() && !foreign) {
            return Ok(Some(real));
        }
        Err(self.refusal(asked))
    }

    fn is_workspace(&self, asked: &Capability) -> bool {
        let (Some(pattern), Some(goal)) = (asked.file_pattern(), self.goal) else { return false };
        let root = Path::new(pattern.root().as_str());
        self.workspaces.iter().any(|all| root == all.join(goal.to_string()))
    }

    fn refusal(&self, asked: &Capability) -> KernelError {
        KernelError::Denied(format!(
            "the ceiling of uid {} does not cover it; missing {asked}; ask for less, or let the operator add it to \
             the grants of that principal",
            self.uid
        ))
    }
}

impl Kernel {
    /// What bounds the root agents of this origin; nothing for the operator's own.
    pub(crate) async fn bound(&self, origin: &Origin) -> Result<Option<Bound>, KernelError> {
        let Some(mut bound) = self.spelled_bound(origin.owner) else { return Ok(None) };
        let spelled = self.config().workspaces.clone();
        bound.workspaces[1] = off_thread(move || spelled.canonicalize().unwrap_or(spelled)).await?;
        bound.goal = origin.goal;
        Ok(Some(bound))
    }

    /// The same, for comparing spellings alone.
    fn spelled_bound(&self, uid: u32) -> Option<Bound> {
        let ceiling = self.config().principals.ceiling(uid)?;
        let spelled = &self.config().workspaces;
        Some(Bound { ceiling, uid, goal: None, workspaces: [spelled.clone(), spelled.clone()] })
    }

    /// The purse that a principal's ceiling leaves to one of its agents.
    pub(crate) fn purse_ceiling(&self, caller: Principal) -> Budget {
        let ceiling = self.config().principals.ceiling(caller.uid());
        Budget { max: ceiling.map_or(Ceilings::NONE, |ceiling| ceiling.max), reset_period: None }
    }

    /// Refuses a goal that asks by its spelling for more than the caller's ceiling, and bounds its purse.
    pub(crate) fn within_ceiling(
        &self,
        caller: Principal,
        mut request: GoalRequest,
    ) -> Result<GoalRequest, KernelError> {
        let Some(bound) = self.spelled_bound(caller.uid()) else { return Ok(request) };
        let own: &Manifest = request.manifest.as_ref().unwrap_or(&self.config().bootstrap);
        for spec in own.capabilities.iter().chain(&request.grants) {
            bound.check(&spec.capability)?;
        }
        if request.priority > 0 {
            let why = "only the operator gives a priority above 0; leave `priority` out, or ask for less";
            return Err(KernelError::Denied(why.to_owned()));
        }
        request.budget = self.goal_budget(&request).under(&self.purse_ceiling(caller));
        Ok(request)
    }
}

/// The tighter of what is asked and what the ceiling's grant says.
fn tighter(asked: Constraints, most: &Constraints) -> Constraints {
    let least = |one: Option<u32>, other: Option<u32>| [one, other].into_iter().flatten().min();
    let mut bounds = asked;
    bounds.max_invocations = least(asked.max_invocations, most.max_invocations);
    bounds.max_per_minute = least(asked.max_per_minute, most.max_per_minute);
    bounds.expires_in_seconds = least(asked.expires_in_seconds, most.expires_in_seconds);
    bounds.delegate &= most.delegate;
    bounds.usable &= most.usable;
    bounds.approval_required |= most.approval_required;
    bounds
}

/// Whether something is covered by both. Of two that cannot be divided and meet, one covers the other.
fn meet(one: &Capability, other: &Capability) -> bool {
    let others = undivided(other);
    undivided(one).iter().any(|one| others.iter().any(|other| covers(one, other) || covers(other, one)))
}

/// A capability as those of single hosts or names, of which it is made up.
fn undivided(capability: &Capability) -> Vec<Capability> {
    let named = |names: &NameSet, of: fn(NameSet) -> Capability| match names {
        NameSet::All => vec![of(NameSet::All)],
        NameSet::Only(names) => names.iter().map(|name| of(NameSet::Only(vec![name.clone()]))).collect(),
    };
    match capability {
        Capability::Network(rules) => {
            rules.iter().map(|rule| Capability::Network(vec![rule.clone()])).collect()
        }
        Capability::SpawnChild(names) => named(names, Capability::SpawnChild),
        Capability::MessageSend(names) => named(names, Capability::MessageSend),
        whole => vec![whole.clone()],
    }
}

fn real_pattern(pattern: &PathPattern) -> Option<PathPattern> {
    let real = real_path(Path::new(pattern.root().as_str()))?;
    let root = AbsPath::parse(real.to_str()?).ok()?;
    Some(PathPattern::from_parts(root, pattern.reach()))
}

/// A path with every link resolved, whether or not its end is there; nothing where a link leads nowhere or the
/// path cannot be followed.
fn real_path(path: &Path) -> Option<PathBuf> {
    for ancestor in path.ancestors() {
        match ancestor.canonicalize() {
            Ok(real) if ancestor == path => return Some(real),
            Ok(real) => return Some(real.join(path.strip_prefix(ancestor).ok()?)),
            // Something of that name is there: a link that leads nowhere.
            Err(_) if ancestor.symlink_metadata().is_ok() => return None,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    use aaos_core::budget::Ceilings;
    use aaos_core::capability::{Capability, GrantSpec};
    use aaos_core::id::GoalId;
    use uuid::Uuid;

    use super::{Bound, Ceiling};

    fn spec(text: &str) -> GrantSpec {
        GrantSpec::parse(text).expect(text)
    }

    fn bound(grants: &[&str], workspaces: &Path) -> Bound {
        let ceiling = Ceiling::new(grants.iter().map(|text| spec(text)).collect(), Ceilings::NONE);
        let goal = Some(GoalId::from_uuid(Uuid::from_u128(1)));
        Bound { ceiling, uid: 1001, goal, workspaces: [PathBuf::from("/elsewhere"), workspaces.to_owned()] }
    }

    fn read_of(path: &Path) -> Capability {
        spec(&format!("file_read: {}", path.display())).capability
    }

    #[test]
    fn what_no_grant_of_the_ceiling_covers_is_refused_in_the_words_of_the_grammar() {
        let bound = bound(&["file_read: /data/*", "tool: echo", "network: example.org"], Path::new("/w"));
        for inside in ["file_read: /data/*", "file_read: /data/a/b", "tool: echo", "network: example.org"] {
            bound.check(&spec(inside).capability).expect(inside);
        }
        for outside in [
            "file_read: /data-x/*",
            "file_read: /*",
            "file_write: /data/*",
            "tool: *",
            "tool: grep",
            "web_search",
            "network: example.com",
            "spawn_child: [a]",
        ] {
            let refused = bound.check(&spec(outside).capability).expect_err(outside).to_string();
            assert!(refused.contains(&format!("missing {outside}")), "{refused}");
        }
    }

    #[test]
    fn a_request_is_no_looser_than_the_grant_that_covers_it() {
        let strict = "{ file_read: \"/data/*\", max_invocations: 3, max_per_minute: 2, expires_in_seconds: 60, \
                      delegate: false, use: false, approval_required: true }";
        let bound = bound(&[strict, "tool: *"], Path::new("/w"));
        let tightened = |text: &str| {
            let asked = spec(text);
            bound.tighten(&asked.capability, asked.constraints).expect(text)
        };
        assert_eq!(tightened("file_read: /data/a"), spec(strict).constraints);
        let mixed = tightened("{ file_read: /data/a, max_invocations: 2, expires_in_seconds: 90 }");
        assert_eq!((mixed.max_invocations, mixed.expires_in_seconds), (Some(2), Some(60)));
        let free = spec("{ tool: echo, max_invocations: 9 }").constraints;
        assert_eq!(tightened("{ tool: echo, max_invocations: 9 }"), free, "the control: nothing to add");
    }

    #[test]
    fn a_wider_grant_of_the_ceiling_is_no_way_round_one_that_asks() {
        let asking = |capability: &str| format!("{{ {capability}, approval_required: true }}");
        for (asks, wider, about, not_about) in [
            (
                "file_write: /srv/out/secret/*",
                "file_write: /srv/out/*",
                "file_write: /srv/out/*",
                "/srv/out/b/*",
            ),
            (
                "file_write: /srv/out/secret/*",
                "file_write: /srv/out/*",
                "file_write: /srv/out/secret/x",
                "/srv/out/b",
            ),
        ] {
            check_asks(&[wider, &asking(asks)], about, &format!("file_write: {not_about}"));
        }
        check_asks(&["tool: *", &asking("tool: echo")], "tool: *", "tool: grep");
        check_asks(&["tool: *", &asking("tool: echo")], "tool: echo", "tool: file_read");
        let hosts = asking("network: \"a.example.org, b.example.org\"");
        check_asks(&["network: *.example.org", &hosts], "network: *.example.org", "network: c.example.org");
        check_asks(
            &["network: b.example.org, c.example.org", &hosts],
            "network: b.example.org, c.example.org",
            "network: c.example.org",
        );
        check_asks(&["web_search", &hosts], "web_search", "network: c.example.org");
        check_asks(
            &["spawn_child: [*]", &asking("spawn_child: [a, b]")],
            "spawn_child: [b, c]",
            "spawn_child: [c]",
        );
        check_asks(
            &["file_read: /a/*", "file_write: /a/*", &asking("file_write: /a/b")],
            "file_write: /a/*",
            "file_read: /a/*",
        );
    }

    fn check_asks(ceiling: &[&str], about: &str, not_about: &str) {
        let bound = bound(ceiling, Path::new("/w"));
        for (asked, asks) in [(about, true), (not_about, false)] {
            let asked = spec(asked);
            let issued = bound.tighten(&asked.capability, asked.constraints).expect("covered");
            assert_eq!(issued.approval_required, asks, "{asked:?} below {ceiling:?}");
        }
    }

    #[test]
    fn a_grant_that_asks_is_met_behind_its_link_too() {
        let home = testkit::scratch();
        std::fs::create_dir(home.path().join("real")).unwrap();
        symlink(home.path().join("real"), home.path().join("alias")).unwrap();
        let within = |path: &str| format!("file_read: {}/{path}", home.path().display());
        let asks = format!("{{ {}, approval_required: true }}", within("alias/*"));
        let real = home.path().join("real");
        check_asks(&[&within("*"), &asks], &format!("file_read: {}/a", real.display()), &within("other"));
    }

    #[test]
    fn a_link_below_the_ceiling_does_not_lead_out_of_it() {
        let home = testkit::scratch();
        let at = |path: &str| home.path().join(path);
        for made in ["data/sub", "outside", "work/other", "work/00000000-0000-0000-0000-000000000001"] {
            std::fs::create_dir_all(at(made)).unwrap();
        }
        symlink(at("outside"), at("data/out")).unwrap();
        symlink(at("data/sub"), at("data/in")).unwrap();
        symlink(at("nowhere"), at("data/lost")).unwrap();
        symlink(at("data"), at("alias")).unwrap();
        let bound = bound(&[&format!("file_read: {}/*", at("alias").display())], &at("work"));
        let real = |path: &str| bound.real_pattern(&read_of(&at(path)));
        for (asked, means) in
            [("data/in", "data/sub"), ("alias/sub", "data/sub"), ("data/new/x", "data/new/x")]
        {
            let pattern = real(asked).expect(asked).expect("a file capability");
            assert_eq!(Path::new(pattern.root().as_str()), at(means), "{asked}");
        }
        let mut told = Vec::new();
        for outside in ["data/out", "data/out/new", "data/out/new/er", "data/lost", "data/lost/x", "outside"]
        {
            let refused = real(outside).expect_err(outside).to_string();
            told.push(refused.replace(&at(outside).display().to_string(), "IT"));
        }
        told.dedup();
        assert_eq!(told.len(), 1, "what lies outside cannot be told from the words: {told:?}");
    }

    #[test]
    fn of_all_workspaces_only_its_goals_own_is_reached() {
        let home = testkit::scratch();
        let own = home.path().join("work/00000000-0000-0000-0000-000000000001");
        let other = home.path().join("work/00000000-0000-0000-0000-000000000002");
        for made in [&own, &other] {
            std::fs::create_dir_all(made).unwrap();
        }
        let bound = bound(&["file_read: /*"], &home.path().join("work"));
        bound.real_pattern(&read_of(&own)).expect("its own");
        assert!(bound.real_pattern(&read_of(&other)).is_err());
        bound.real_pattern(&read_of(home.path())).expect("the control: the ceiling covers the rest");
        let narrow = self::bound(&[], &home.path().join("work"));
        narrow.check(&read_of(&own)).expect("needs no grant");
        assert!(narrow.check(&read_of(&other)).is_err());
    }
}
