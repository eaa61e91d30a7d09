// What the rooms show now: one stream of the contract's WatchRoomMetrics for the page that is open.

import { timestampMs, type Timestamp } from "@bufbuild/protobuf/wkt";
import { SvelteMap } from "svelte/reactivity";
import { resume, type StreamState } from "../../client-src/resume";
import type { RoomMetric, WatchRoomMetricsResponse } from "../gen/sensormesh/rooms/v1/rooms_pb";
import { rooms, words } from "./api";

/** A hidden page gives its stream back after this long, and resumes when it is shown, ms. */
const hiddenMs = 60_000;
/** Changes reach the page together, this often, ms. */
const drawMs = 250;

type Listener = (roomId: string, metrics: RoomMetric[]) => void;

class Live {
  /** Room, then metric. */
  rooms = new SvelteMap<string, Map<string, RoomMetric>>();
  state = $state<StreamState>("connecting");
  /** The snapshot has arrived once. */
  ready = $state(false);
  /** Why the stream ended for good. */
  failure = $state("");
  /** When the page last knew that it had missed nothing. */
  asOf = $state(0);
  /** Changes when readings may have been missed: a chart fetches its own again. */
  epoch = $state(0);

  #listeners = new Set<Listener>();
  #stop: AbortController | undefined;
  #scope: string[] = [];
  #cursor = "";
  /** What the present snapshot has not mentioned yet. */
  #unseen: Set<string> | undefined;
  #dirty = new Set<string>();
  #draw: ReturnType<typeof setTimeout> | undefined;
  #hide: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    document.addEventListener("visibilitychange", () => {
      clearTimeout(this.#hide);
      if (document.hidden) this.#hide = setTimeout(() => this.#stop?.abort(), hiddenMs);
      else if (this.#stop?.signal.aborted) this.#run();
    });
  }

  /** Watches these rooms, or all of them. Returns how to end it. */
  watch(roomIds: string[]): () => void {
    this.#stop?.abort();
    this.#scope = roomIds;
    this.#cursor = "";
    this.ready = false;
    this.rooms.clear();
    this.#run();
    return () => {
      if (this.#scope !== roomIds) return;
      this.#stop?.abort();
      this.#stop = undefined;
    };
  }

  /** Hears every reading as it arrives. Returns how to end it. */
  listen(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async #run() {
    const stop = new AbortController();
    this.#stop = stop;
    const roomIds = this.#scope;
    this.failure = "";
    const stream = resume(
      (cursor, signal) => rooms.watchRoomMetrics({ cursor, roomIds }, { signal, timeoutMs: 0 }),
      {
        signal: stop.signal,
        cursor: this.#cursor,
        onState: (state) => {
          if (this.#stop === stop) this.state = state;
        },
        onOpen: (cursor) => {
          if (!cursor) this.#forget();
        },
      },
    );
    try {
      for await (const message of stream) {
        if (this.#stop !== stop) return;
        this.#take(message);
        if (message.cursor) this.#cursor = message.cursor;
      }
    } catch (error) {
      if (this.#stop !== stop) return;
      this.state = "waiting";
      this.failure = words(error);
    }
  }

  /** A snapshot follows: what it does not mention is gone. */
  #forget() {
    this.#unseen = new Set();
    if (this.ready) this.epoch += 1;
    for (const [room, metrics] of this.rooms) for (const metric of metrics.keys()) this.#unseen.add(`${room}/${metric}`);
  }

  #take({ event }: WatchRoomMetricsResponse) {
    if (event.case === "change") {
      const { roomId, metrics } = event.value;
      const room = this.#room(roomId);
      for (const metric of metrics) {
        room.set(metric.metric, metric);
        this.#unseen?.delete(`${roomId}/${metric.metric}`);
      }
      for (const listener of this.#listeners) listener(roomId, metrics);
      this.#changed(roomId);
    } else if (event.case === "removed") {
      this.rooms.get(event.value.roomId)?.delete(event.value.metric);
      this.#changed(event.value.roomId);
    } else if (event.case === "bookmark") {
      if (event.value.reset) {
        this.#forget();
        return;
      }
      for (const key of this.#unseen ?? []) {
        const slash = key.indexOf("/");
        this.rooms.get(key.slice(0, slash))?.delete(key.slice(slash + 1));
        this.#changed(key.slice(0, slash));
      }
      this.#unseen = undefined;
      this.ready = true;
      this.asOf = ms(event.value.asOf) ?? Date.now();
    }
  }

  #room(roomId: string): Map<string, RoomMetric> {
    let room = this.rooms.get(roomId);
    if (!room) this.rooms.set(roomId, (room = new Map()));
    return room;
  }

  #changed(roomId: string) {
    this.#dirty.add(roomId);
    this.#draw ??= setTimeout(() => {
      this.#draw = undefined;
      for (const id of this.#dirty) {
        const room = this.rooms.get(id);
        if (room) this.rooms.set(id, new Map(room));
      }
      this.#dirty.clear();
    }, drawMs);
  }
}

/** A timestamp of the contracts in milliseconds, with fractions. */
export function ms(time: Timestamp | undefined): number | undefined {
  return time && timestampMs(time) + (time.nanos % 1_000_000) / 1e6;
}

/** The present time, for "5 s ago". */
class Now {
  ms = $state(Date.now());
  constructor() {
    setInterval(() => (this.ms = Date.now()), 1_000);
  }
}

export const live = new Live();
export const now = new Now();
