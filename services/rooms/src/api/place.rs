//! Places and rooms.

use prost::Message;
use sensormesh_proto::rooms::v1 as proto;
use sensormesh_store::Tx;
use sensormesh_types::{Caller, Error, Result, Scope, mask, page};

use super::Api;
use crate::db;
use crate::place::{Kind, Place, Tree};
use crate::record::{self, Author};

/// Fields of a place that an update may take.
const FIELDS: &[&str] = &["name", "parent_id"];
/// Fields that an update may name and that never change.
const FIXED: &[&str] = &["place_id", "kind", "site_id", "create_time", "update_time", "etag"];

impl Api {
    pub(super) async fn get_place(
        &self,
        caller: &Caller,
        request: proto::GetPlaceRequest,
    ) -> Result<proto::GetPlaceResponse> {
        let mut read = self.store.read(&caller.scope).await?;
        let place = db::find_place(&mut read, caller.tenant(), &request.place_id).await?;
        let place = place.filter(|place| sees(&caller.scope, place));
        let place = place.ok_or_else(|| Error::not_found("place", &request.place_id))?;
        Ok(proto::GetPlaceResponse { place: Some(record::encode_place(&place)) })
    }

    pub(super) async fn list_places(
        &self,
        caller: &Caller,
        request: proto::ListPlacesRequest,
    ) -> Result<proto::ListPlacesResponse> {
        let size = page::size(request.page_size, 100, 1000)? as usize;
        let query = format!("places/{}/{}", caller.tenant(), request.ancestor_id);
        let after = page::after(&query, &request.page_token)?;
        let tree = self.tree(caller, &request.ancestor_id).await?;
        let below = |place: &Place| request.ancestor_id.is_empty() || tree.is_below(&place.id, &request.ancestor_id);
        let places = tree.iter().filter(|place| sees(&caller.scope, place) && below(place));
        let keyed = places.map(|place| (format!("{:04}/{}", tree.depth(&place.id), place.id), place));
        let (places, next_page_token) = cut(keyed, after.as_deref(), size, &query);
        Ok(proto::ListPlacesResponse {
            places: places.into_iter().map(record::encode_place).collect(),
            next_page_token,
        })
    }

    pub(super) async fn create_place(
        &self,
        caller: &Caller,
        request: proto::CreatePlaceRequest,
    ) -> Result<proto::CreatePlaceResponse> {
        let body = request.encode_to_vec();
        let proto::CreatePlaceRequest { place, request_id } = request;
        let wanted = place.unwrap_or_default();
        let kind = Kind::from_i32(wanted.kind).ok_or_else(|| {
            Error::invalid(
                "place.kind",
                "must be PLACE_KIND_SITE, PLACE_KIND_BUILDING, PLACE_KIND_FLOOR or PLACE_KIND_ROOM",
            )
        })?;
        let now = self.mesh.clock().now_micros();
        let mut tx = self.store.tx(&caller.scope).await?;
        db::lock(&mut tx, caller.tenant()).await?;
        if let Some(answer) = tx.recall_request("CreatePlace", &request_id, &body).await? {
            return proto::CreatePlaceResponse::decode(answer.as_slice()).map_err(Error::internal);
        }
        let mut tree = db::list_places(&mut tx, caller.tenant()).await?;
        hide_parent(&caller.scope, &tree, &wanted.parent_id)?;
        let place = tree.add(Place {
            id: wanted.place_id,
            kind,
            name: wanted.name,
            parent: wanted.parent_id,
            site: String::new(),
            created: now,
            updated: now,
            revision: 1,
        })?;
        if !sees(&caller.scope, &place) {
            return Err(Error::forbidden("the place would be outside the sites you may change"));
        }
        db::save_place(&mut tx, caller.tenant(), &place).await?;
        record::place(&mut tx, &Author::of(caller), "place.created", &place);
        let response = proto::CreatePlaceResponse { place: Some(record::encode_place(&place)) };
        tx.remember_request("CreatePlace", &request_id, &body, &response.encode_to_vec()).await?;
        tx.commit().await?;
        Ok(response)
    }

    pub(super) async fn update_place(
        &self,
        caller: &Caller,
        request: proto::UpdatePlaceRequest,
    ) -> Result<proto::UpdatePlaceResponse> {
        let wanted = request.place.unwrap_or_default();
        let fields = mask::fields(request.update_mask.as_ref(), FIELDS, FIXED, |field| match field {
            "name" => !wanted.name.is_empty(),
            _ => !wanted.parent_id.is_empty(),
        })?;
        let id = &wanted.place_id;
        let mut tx = self.store.tx(&caller.scope).await?;
        db::lock(&mut tx, caller.tenant()).await?;
        let mut tree = db::list_places(&mut tx, caller.tenant()).await?;
        let before = tree.get(id).filter(|place| sees(&caller.scope, place)).cloned();
        let before = before.ok_or_else(|| Error::not_found("place", id))?;
        before.check_etag(&wanted.etag)?;
        let parent = fields.takes("parent_id").then_some(wanted.parent_id.as_str());
        hide_parent(&caller.scope, &tree, parent.unwrap_or_default())?;
        let name = fields.takes("name").then_some(wanted.name.as_str());
        let places = tree.clone();
        let changed = tree.change(id, name, parent, self.mesh.clock().now_micros())?;
        if changed.iter().any(|place| !sees(&caller.scope, place)) {
            return Err(Error::forbidden("the place would leave the sites you may change"));
        }
        if changed.iter().any(|place| place.id == *id && place.site != before.site) {
            self.check_sites(&mut tx, caller.tenant(), &changed).await?;
        }
        for place in &changed {
            db::save_place(&mut tx, caller.tenant(), place).await?;
            record::changed_place(&mut tx, &Author::of(caller), places.get(&place.id), place);
        }
        tx.commit().await?;
        Ok(proto::UpdatePlaceResponse { place: tree.get(id).map(record::encode_place) })
    }

    /// A room cannot move to a site that one of its sensors does not belong to.
    async fn check_sites(&self, tx: &mut Tx, tenant: &str, changed: &[Place]) -> Result<()> {
        for room in changed.iter().filter(|place| place.kind == Kind::Room) {
            for placement in db::list_current(tx, tenant, &room.id).await? {
                record::check_site(&room.site, &placement.site, &placement.sensor)?;
            }
        }
        Ok(())
    }

    pub(super) async fn delete_place(
        &self,
        caller: &Caller,
        request: proto::DeletePlaceRequest,
    ) -> Result<proto::DeletePlaceResponse> {
        let now = self.mesh.clock().now_nanos();
        let author = Author::of(caller);
        let mut tx = self.store.tx(&caller.scope).await?;
        db::lock(&mut tx, caller.tenant()).await?;
        let mut tree = db::list_places(&mut tx, caller.tenant()).await?;
        if !tree.get(&request.place_id).is_some_and(|place| sees(&caller.scope, place)) {
            return Err(Error::not_found("place", &request.place_id));
        }
        for place in tree.remove(&request.place_id, request.force)? {
            let placements = db::list_current(&mut tx, caller.tenant(), &place.id).await?;
            if !placements.is_empty() && !request.force {
                let message =
                    format!("{} sensors are in {:?}; take them out first or use force", placements.len(), place.id);
                return Err(Error::precondition("PLACE_NOT_EMPTY", message).with("place", place.id));
            }
            for placement in placements {
                record::end(&mut tx, &author, placement, now).await?;
            }
            db::delete_place(&mut tx, caller.tenant(), &place.id).await?;
            record::place(&mut tx, &author, "place.deleted", &place);
        }
        tx.commit().await?;
        Ok(proto::DeletePlaceResponse {})
    }

    pub(super) async fn list_rooms(
        &self,
        caller: &Caller,
        request: proto::ListRoomsRequest,
    ) -> Result<proto::ListRoomsResponse> {
        let size = page::size(request.page_size, 100, 1000)? as usize;
        let query = format!("rooms/{}/{}", caller.tenant(), request.ancestor_id);
        let after = page::after(&query, &request.page_token)?;
        let tree = self.tree(caller, &request.ancestor_id).await?;
        let rooms = tree.rooms_below(&request.ancestor_id);
        let rooms = rooms.into_iter().filter_map(|id| tree.get(id)).filter(|room| sees(&caller.scope, room));
        let keyed = rooms.map(|room| (format!("{}/{}", short(&room.name.to_lowercase()), room.id), room));
        let (rooms, next_page_token) = cut(keyed, after.as_deref(), size, &query);
        let mut read = self.store.read(&caller.scope).await?;
        let counts = db::count_sensors(&mut read, caller.tenant(), caller.scope.sites()).await?;
        let rooms = rooms.into_iter().map(|room| proto::Room {
            room_id: room.id.clone(),
            name: room.name.clone(),
            parent_id: room.parent.clone(),
            site_id: room.site.clone(),
            sensors: counts.get(&room.id).copied().unwrap_or(0),
        });
        Ok(proto::ListRoomsResponse { rooms: rooms.collect(), next_page_token })
    }

    /// The caller's places; NOT_FOUND where `ancestor` is none of them.
    pub(super) async fn tree(&self, caller: &Caller, ancestor: &str) -> Result<Tree> {
        let tree = db::list_places(&mut self.store.read(&caller.scope).await?, caller.tenant()).await?;
        match tree.get(ancestor) {
            None if !ancestor.is_empty() => Err(Error::not_found("place", ancestor)),
            Some(place) if !sees(&caller.scope, place) => Err(Error::not_found("place", ancestor)),
            _ => Ok(tree),
        }
    }

    /// A room that the caller sees.
    pub(super) async fn room(&self, caller: &Caller, read: &mut sensormesh_store::Read, id: &str) -> Result<Place> {
        let place = db::find_place(read, caller.tenant(), id).await?;
        let room = place.filter(|place| place.kind == Kind::Room && sees(&caller.scope, place));
        room.ok_or_else(|| Error::not_found("room", id))
    }
}

pub(super) fn sees(scope: &Scope, place: &Place) -> bool {
    scope.admits(scope.tenant(), &place.site)
}

/// A parent that the caller does not see does not exist for it.
fn hide_parent(scope: &Scope, tree: &Tree, parent: &str) -> Result<()> {
    match tree.get(parent) {
        Some(place) if !sees(scope, place) => Err(Error::not_found("place", parent)),
        _ => Ok(()),
    }
}

/// Sorts by key and returns the `size` items after the key of the page before, and the next page's token.
pub(super) fn cut<T>(
    keyed: impl Iterator<Item = (String, T)>,
    after: Option<&str>,
    size: usize,
    query: &str,
) -> (Vec<T>, String) {
    let mut keyed: Vec<(String, T)> = keyed.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after)).collect();
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    let more = keyed.len() > size;
    keyed.truncate(size);
    let token = keyed.last().filter(|_| more).map(|(key, _)| page::token(query, key)).unwrap_or_default();
    (keyed.into_iter().map(|(_, item)| item).collect(), token)
}

/// The start of a name, so that a page token made of it stays short.
fn short(name: &str) -> &str {
    &name[..name.floor_char_boundary(200)]
}
