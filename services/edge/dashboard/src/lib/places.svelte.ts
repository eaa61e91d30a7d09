// The tree of places and what is in the rooms, as far as the pages need it.

import { Code, ConnectError } from "@connectrpc/connect";
import { PlaceKind, type Place, type Placement, type UnplacedSensor } from "../gen/sensormesh/rooms/v1/rooms_pb";
import { pages, requestId, rooms } from "./api";

export { PlaceKind, type Place, type Placement, type UnplacedSensor };

export const kinds = [PlaceKind.SITE, PlaceKind.BUILDING, PlaceKind.FLOOR, PlaceKind.ROOM] as const;

export const kindName: Record<PlaceKind, string> = {
  [PlaceKind.UNSPECIFIED]: "Place",
  [PlaceKind.SITE]: "Site",
  [PlaceKind.BUILDING]: "Building",
  [PlaceKind.FLOOR]: "Floor",
  [PlaceKind.ROOM]: "Room",
};

/** Whether a place of this kind may stand in one of kind `parent`; absent = at the top. As the contract says. */
export function mayStandIn(kind: PlaceKind, parent: PlaceKind | undefined): boolean {
  switch (kind) {
    case PlaceKind.SITE:
      return parent === undefined;
    case PlaceKind.BUILDING:
      return parent === undefined || parent === PlaceKind.SITE;
    case PlaceKind.FLOOR:
      return parent === PlaceKind.BUILDING || parent === PlaceKind.SITE;
    default:
      return true;
  }
}

/** The metric a sensor is where nobody says. */
export function defaultMetric(sensorId: string): string {
  return sensorId.slice(sensorId.lastIndexOf(".") + 1).replace(/[^A-Za-z0-9_.-]/g, "-");
}

class Places {
  all = $state.raw<Place[]>([]);
  placements = $state.raw<Placement[]>([]);
  unplaced = $state.raw<UnplacedSensor[]>([]);
  loaded = $state(false);

  byId = $derived(new Map(this.all.map((place) => [place.placeId, place])));
  rooms = $derived(this.all.filter((place) => place.kind === PlaceKind.ROOM).sort(byName));
  #children = $derived(group(this.all, (place) => (this.byId.has(place.parentId) ? place.parentId : "")));
  #inRoom = $derived(group(this.placements, (placement) => placement.roomId));

  /** The places directly in this one; at the top where it is empty. */
  in(placeId: string): Place[] {
    return [...(this.#children.get(placeId) ?? [])].sort((a, b) => a.kind - b.kind || byName(a, b));
  }

  sensorsIn(roomId: string): Placement[] {
    return this.#inRoom.get(roomId) ?? [];
  }

  /** The places above, the outermost first. */
  above(placeId: string): Place[] {
    const path: Place[] = [];
    let place = this.byId.get(this.byId.get(placeId)?.parentId ?? "");
    while (place && path.length < 32) {
      path.unshift(place);
      place = this.byId.get(place.parentId);
    }
    return path;
  }

  isBelow(placeId: string, ancestorId: string): boolean {
    return this.above(placeId).some((place) => place.placeId === ancestorId);
  }

  async load(): Promise<void> {
    this.all = await pages(async (pageToken) => {
      const page = await rooms.listPlaces({ pageSize: 1000, pageToken });
      return { items: page.places, next: page.nextPageToken };
    });
    this.loaded = true;
  }

  async loadSensors(): Promise<void> {
    const [placements, unplaced] = await Promise.all([
      pages(async (pageToken) => {
        const page = await rooms.listPlacements({ pageSize: 1000, pageToken });
        return { items: page.placements, next: page.nextPageToken };
      }),
      pages(async (pageToken) => {
        const page = await rooms.listUnplacedSensors({ pageSize: 1000, pageToken });
        return { items: page.sensors, next: page.nextPageToken };
      }),
    ]);
    this.placements = placements;
    this.unplaced = unplaced;
  }

  async create(kind: PlaceKind, name: string, parentId: string): Promise<Place | undefined> {
    const { place } = await rooms.createPlace({ place: { kind, name, parentId }, requestId: requestId() });
    await this.load();
    return place;
  }

  async rename(place: Place, name: string): Promise<void> {
    await rooms.updatePlace({ place: { placeId: place.placeId, name, etag: place.etag }, updateMask: { paths: ["name"] } });
    await this.load();
  }

  async move(place: Place, parentId: string): Promise<void> {
    const changed = { placeId: place.placeId, parentId, etag: place.etag };
    await rooms.updatePlace({ place: changed, updateMask: { paths: ["parent_id"] } });
    await this.load();
  }

  /** Deletes a place. False where it has something in it and `force` does not say to delete that, too. */
  async remove(place: Place, force: boolean): Promise<boolean> {
    try {
      await rooms.deletePlace({ placeId: place.placeId, force });
    } catch (error) {
      if (!force && ConnectError.from(error).code === Code.FailedPrecondition) return false;
      throw error;
    }
    await Promise.all([this.load(), this.loadSensors()]);
    return true;
  }

  async assign(sensorId: string, roomId: string, metric: string): Promise<void> {
    await rooms.createPlacement({ placement: { sensorId, roomId, metric }, requestId: requestId() });
  }

  async unassign(sensorId: string): Promise<void> {
    await rooms.deletePlacement({ sensorId });
    await this.loadSensors();
  }
}

function byName(a: Place, b: Place): number {
  return (a.name || a.placeId).localeCompare(b.name || b.placeId, undefined, { numeric: true });
}

/** The items by what `key` says of each. */
export function group<T>(items: T[], key: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const name = key(item);
    const members = groups.get(name);
    if (members) members.push(item);
    else groups.set(name, [item]);
  }
  return groups;
}

export const places = new Places();
