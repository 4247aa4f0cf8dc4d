//! Defining views, and listing them: what an admin asks for, in the words of `wire`.

use super::super::change::{refuse_composed, refuse_undeclared};
use super::super::node::Node;
use super::super::serve::{check_mode, folder_and_name};
use super::super::view::View as Ids;
use super::super::{Change, Vault, VaultError};
use super::sources::{self, find};
use crate::access::Operation;
use crate::audit;
use crate::caller::Control;
use crate::model::{Gid, Ino, Kind, Meta, Name, Scope, SecretPath, Uid};
use crate::view::{Definition, Sources};
use crate::wire::{Fault, ViewAdd, ViewAdded, ViewInfo, ViewSource};
use std::sync::Arc;

/// Of a view that is not in the tree.
const NO_INO: Ino = Ino(0);

impl Vault {
    /// Defines a view, or only says what it would be.
    pub(in crate::vault) fn add_view(&self, caller: &Control, asked: &ViewAdd) -> Result<ViewAdded, Fault> {
        let (directory, name) = folder_and_name(&asked.path)?;
        check_mode(asked.mode)?;
        let definition = Definition::parse(&asked.kind, &asked.args, asked.template.as_deref());
        let definition = Arc::new(definition.map_err(|e| Fault::Usage(e.to_string()))?);
        let parent = match self.with_tree(|tree| tree.find(&directory))? {
            Some(parent) => parent,
            None if asked.pretend && asked.parents => self.nearest(&directory)?,
            None if asked.parents => self.folder_made(caller, &directory)?,
            None => self.folder_there(&directory)?,
        };
        let path = asked.path.to_string();
        let made = self.try_add_view(caller, asked, (parent, name), definition, &path);
        Ok(self.recording(audit::Operation::View, &path, || caller.who(), made)?)
    }

    /// The folder that a missing one would be made in.
    pub(in crate::vault) fn nearest(&self, path: &SecretPath) -> Result<Ino, VaultError> {
        self.with_tree(|tree| {
            let mut at = Ino::ROOT;
            for name in path.names() {
                match tree.child(at, name.as_str()) {
                    Some(ino) => at = ino,
                    None => break,
                }
            }
            at
        })
    }

    fn try_add_view(
        &self,
        caller: &Control,
        asked: &ViewAdd,
        (parent, name): (Ino, &Name),
        definition: Arc<Definition>,
        path: &str,
    ) -> Result<ViewAdded, VaultError> {
        let event = audit::Operation::View;
        let folder = self.node(parent)?;
        if folder.kind != Kind::Directory {
            return Err(VaultError::NotADirectory);
        }
        let grant = self.allow(caller, parent, &folder, Operation::ChangeEntries, event, path)?;
        // As for conditions: what is composed says to whom its sources go.
        self.allow(caller, parent, &folder, Operation::ChangeConditions, event, path)?;
        refuse_undeclared(&folder)?;
        refuse_composed(&folder)?;
        if self.with_tree(|tree| tree.find(&asked.path))?.is_some() {
            return Err(VaultError::Exists);
        }
        self.check_room(caller, grant.rule(), &folder.scope)?;
        self.check_sources(&folder.scope, &definition)?;
        let node = self.new_view(asked, (parent, name), &folder, definition);
        let view = self.view_info(NO_INO, &asked.path, &node);
        self.check_composed(&node)?;
        let readers = self.rules(&node)?;
        if asked.pretend {
            return Ok(ViewAdded { view, readers, made: false });
        }
        // Composing waits for commits: only from here on others wait for this one.
        let mut writer = self.lock_writer();
        if self.with_tree(|tree| tree.child(parent, name.as_str()))?.is_some() {
            return Err(VaultError::Exists);
        }
        if self.node(parent)?.scope != folder.scope {
            return Err(VaultError::NotFound);
        }
        let what: String = format!("{}: {}", grant.rule(), view.definition).chars().take(4000).collect();
        self.record(event, path, None, &caller.who(), &what)?;
        let ino = self.transact_with(&mut writer, |writer| {
            let ino = writer.next_ino()?;
            self.put(writer, ino, node)?;
            self.stamp(writer, parent)?;
            writer.sync();
            Ok(ino)
        })?;
        drop(writer);
        self.refresh_if_stale(ino);
        self.sync()?;
        self.notify(Change::Entry { parent, name: name.clone() });
        Ok(ViewAdded { view, readers, made: true })
    }

    fn new_view(
        &self,
        asked: &ViewAdd,
        (parent, name): (Ino, &Name),
        folder: &Node,
        definition: Arc<Definition>,
    ) -> Node {
        let ids = self.view(&folder.scope);
        let (kind, mode) = if definition.is_directory() { (Kind::Directory, 0o700) } else { (Kind::File, 0o600) };
        let uid = asked.uid.map_or(Uid(0), |uid| ids.kept_uid(Uid(uid)));
        let gid = asked.gid.map_or(Gid(0), |gid| ids.kept_gid(Gid(gid)));
        Node {
            parent,
            name: Some(name.clone()),
            kind,
            scope: folder.scope.clone(),
            meta: Meta::new(uid, gid, asked.mode.unwrap_or(mode) & 0o777),
            target: None,
            versions: Vec::new(),
            last_number: 0,
            view: Some(definition),
        }
    }

    /// What is there and can be no source is refused now; what is missing may come.
    fn check_sources(&self, scope: &Scope, definition: &Definition) -> Result<(), VaultError> {
        let names = definition.with_sources(|sources| match sources {
            Sources::Named(names) => names.to_vec(),
            Sources::Matching(_) => Vec::new(),
        });
        for name in names {
            let found = self.with_tree(|tree| {
                let path = in_tree(scope, &name)?;
                tree.get(tree.find(&path)?).and_then(|node| sources::refusal(node, scope))
            })?;
            if let Some(why) = found {
                return Err(VaultError::Invalid(format!("'{name}' {why}")));
            }
        }
        Ok(())
    }

    /// What opens must be what the view's name says it is.
    fn check_composed(&self, node: &Node) -> Result<(), VaultError> {
        if node.kind != Kind::File {
            return Ok(());
        }
        let keys = self.keys()?;
        let Ok(kek) = keys.kek(&node.scope) else { return Ok(()) };
        match self.compose(NO_INO, node, &kek) {
            Ok(composed) => self.check_content(node, composed.content.expose()),
            // The preview says what is missing.
            Err(_) => Ok(()),
        }
    }

    /// All views, by path; entries of directories left out.
    pub(in crate::vault) fn list_views(&self) -> Result<Vec<ViewInfo>, VaultError> {
        let all: Vec<(Ino, Arc<Node>, SecretPath)> = self.with_tree(|tree| {
            let of = |ino| Some((ino, tree.get(ino)?.clone(), tree.path(ino)?));
            tree.all_views().inodes().filter_map(of).collect()
        })?;
        let is_own = |node: &Node| !matches!(node.view.as_deref(), Some(Definition::Hashed { .. }));
        let mut views: Vec<ViewInfo> = all
            .iter()
            .filter(|(_, node, _)| is_own(node))
            .map(|(ino, node, path)| self.view_info(*ino, path, node))
            .collect();
        views.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(views)
    }

    /// Removes a view, a directory with its entries.
    pub(in crate::vault) fn remove_view(&self, caller: &Control, path: &SecretPath) -> Result<(), Fault> {
        let (directory, name) = folder_and_name(path)?;
        let ino = self.with_tree(|tree| tree.find(path))?.ok_or(VaultError::NotFound)?;
        let node = self.node(ino)?;
        if !node.is_view() {
            return Err(Fault::Refused(format!("'{path}' is no view: pinfold rm removes it")));
        }
        let parent = self.with_tree(|tree| tree.find(&directory))?.ok_or(VaultError::NotFound)?;
        match node.kind {
            Kind::Directory => drop(self.rmdir(caller, parent, name)?),
            Kind::File | Kind::Symlink => drop(self.unlink(caller, parent, name)?),
        }
        self.sync()?;
        self.notify(Change::Entry { parent, name: name.clone() });
        Ok(())
    }

    fn view_info(&self, ino: Ino, path: &SecretPath, node: &Node) -> ViewInfo {
        let definition = node.view.as_deref();
        let problem;
        let mut size = None;
        if node.kind == Kind::Directory {
            problem = self.snapshot(node).err().map(|e| e.to_string());
        } else {
            let composed = self.keys().and_then(|keys| {
                let kek =
                    keys.kek(&node.scope).map_err(|state| VaultError::Denied(super::super::open::denial_of(state)))?;
                self.compose(ino, node, &kek)
            });
            size = composed.as_ref().ok().map(|composed| composed.content.len() as u64);
            problem = composed.err().map(|e| e.to_string());
        }
        // As seen inside: that is what is kept.
        let attr = node.attr(Ino::ROOT, &Ids::plain());
        ViewInfo {
            path: path.to_string(),
            kind: definition.map(|d| d.kind().to_owned()).unwrap_or_default(),
            definition: definition.map(ToString::to_string).unwrap_or_default(),
            scope: node.scope.to_string(),
            uid: attr.uid,
            gid: attr.gid,
            mode: attr.mode,
            size,
            sources: definition.map(|d| self.sources_of(&node.scope, d)).unwrap_or_default(),
            problem,
        }
    }

    /// The sources, each once; those that are missing too.
    fn sources_of(&self, scope: &Scope, definition: &Definition) -> Vec<ViewSource> {
        let named = definition.with_sources(|sources| match sources {
            Sources::Named(names) => Some(names.to_vec()),
            Sources::Matching(_) => None,
        });
        let all = self.with_tree(|tree| match named {
            Some(names) => {
                let node = |name: &SecretPath| tree.get(tree.find(&in_tree(scope, name)?)?).cloned();
                names.into_iter().map(|name| (node(&name), name)).collect::<Vec<_>>()
            }
            None => {
                let found = find(tree, scope, definition).unwrap_or_default();
                found.into_iter().map(|source| (Some(source.node), source.name)).collect()
            }
        });
        let mut seen = std::collections::BTreeSet::new();
        let of = |(node, name): (Option<Arc<Node>>, SecretPath)| {
            let node = node.filter(|node| node.scope == *scope);
            ViewSource {
                path: name.to_string(),
                version: node.as_ref().and_then(|n| n.current()).map(|v| v.number.0),
                uid: node.as_ref().map(|n| n.meta.uid.0),
                mode: node.as_ref().map(|n| n.meta.mode),
                conditions: node.as_ref().is_some_and(|n| n.meta.conditions().any()),
            }
        };
        all.unwrap_or_default().into_iter().filter(|(_, name)| seen.insert(name.clone())).map(of).collect()
    }
}

/// A scope's name as a path of the tree.
fn in_tree(scope: &Scope, name: &SecretPath) -> Option<SecretPath> {
    match scope {
        Scope::Host => Some(name.clone()),
        Scope::Container(_) => SecretPath::parse(&format!("{}/{name}", super::super::instances::folder(scope))).ok(),
    }
}
