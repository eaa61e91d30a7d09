// Where the reader is: the part of the address after `#`.

export type Page = "rooms" | "room" | "places" | "devices" | "mesh" | "account" | "reset" | "users" | "audit";

class Route {
  #path = $state(read());
  page = $derived(this.#page());
  /** The room's id on a room's page, and the metric shown. */
  roomId = $derived(this.page === "room" ? (this.#path[1] ?? "") : "");
  metric = $derived(this.page === "room" ? (this.#path[2] ?? "") : "");
  /** What was mailed to somebody who has forgotten the password. */
  secret = $derived(this.page === "reset" ? (this.#path[1] ?? "") : "");

  constructor() {
    addEventListener("hashchange", () => (this.#path = read()));
  }

  #page(): Page {
    switch (this.#path[0]) {
      case "rooms":
        return this.#path[1] ? "room" : "rooms";
      case "places":
      case "devices":
      case "mesh":
      case "account":
      case "reset":
      case "users":
      case "audit":
        return this.#path[0];
      default:
        return "rooms";
    }
  }

  /** Goes there without a new entry in the history. */
  replace(link: string) {
    history.replaceState(null, "", link);
    this.#path = read();
  }
}

function read(): string[] {
  return location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decode);
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function roomLink(roomId: string, metric = ""): string {
  return `#/rooms/${encodeURIComponent(roomId)}${metric ? `/${encodeURIComponent(metric)}` : ""}`;
}

export const route = new Route();
