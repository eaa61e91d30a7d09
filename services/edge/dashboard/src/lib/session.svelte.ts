// Who is logged in. The access token stays in memory; the refresh token stays in this tab's session storage.

import { Code, ConnectError } from "@connectrpc/connect";
import { Role } from "../gen/sensormesh/options/v1/policy_pb";
import { anyone, auth } from "./api";

const key = "sensormesh.refresh";
/** A token is replaced this long before it expires, ms. */
const early = 60_000;

class Session {
  /** `starting` while a reload finds out whether it is still logged in. */
  state = $state<"starting" | "out" | "in">("starting");
  username = $state("");
  role = $state(Role.UNSPECIFIED);
  /** Why the last session ended, for the log-in page. */
  notice = $state("");

  #access = "";
  #expires = 0;
  #pending: Promise<void> | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  canEdit = $derived(this.role >= Role.OPERATOR);
  isAdmin = $derived(this.role >= Role.ADMIN);

  /** Continues the session of this tab, if it has one. */
  async start(): Promise<void> {
    if (!sessionStorage.getItem(key)) {
      this.state = "out";
      return;
    }
    for (let wait = 500; this.state === "starting"; wait = Math.min(wait * 2, 8_000)) {
      try {
        await this.freshToken();
        await this.#identify();
      } catch (error) {
        if (this.state !== "starting") return;
        this.notice = "Waiting for the log-in service…";
        if (refused(error)) this.#end("Your session has ended. Log in again.");
        else await new Promise((done) => setTimeout(done, wait));
      }
    }
  }

  async logIn(username: string, password: string, otp = ""): Promise<void> {
    this.#keep(await anyone.createToken({ grantType: "password", username, password, otp }));
    await this.#identify();
  }

  async register(username: string, password: string, invitation: string): Promise<void> {
    await anyone.register({ username, password, invitation });
    await this.logIn(username, password);
  }

  async logOut(): Promise<void> {
    // The token is forgotten here even when the server cannot be told.
    await auth.logout({}).catch(() => undefined);
    this.#end("");
  }

  /** A token that works for at least a moment. */
  async token(): Promise<string> {
    if (Date.now() < this.#expires - early) return this.#access;
    try {
      await this.#refresh();
    } catch (error) {
      // Without the log-in service the old token works until it expires.
      if (refused(error) || Date.now() >= this.#expires) throw error;
    }
    return this.#access;
  }

  /** A token issued now. */
  async freshToken(): Promise<string> {
    await this.#refresh();
    return this.#access;
  }

  #refresh(): Promise<void> {
    this.#pending ??= (async () => {
      const refreshToken = sessionStorage.getItem(key);
      if (!refreshToken) throw new ConnectError("not logged in", Code.Unauthenticated);
      try {
        this.#keep(await anyone.createToken({ grantType: "refresh_token", refreshToken }));
      } catch (error) {
        if (refused(error)) this.#end("Your session has ended. Log in again.");
        throw error;
      }
    })().finally(() => (this.#pending = undefined));
    return this.#pending;
  }

  #keep(tokens: { accessToken: string; refreshToken: string; expiresIn: number }) {
    sessionStorage.setItem(key, tokens.refreshToken);
    this.#access = tokens.accessToken;
    this.#expires = Date.now() + tokens.expiresIn * 1000;
    this.#schedule(tokens.expiresIn * 1000 - early);
  }

  #schedule(ms: number) {
    clearTimeout(this.#timer);
    const again = () => this.#refresh().catch(() => this.state === "in" && this.#schedule(10_000));
    this.#timer = setTimeout(again, Math.max(ms, 1_000));
  }

  async #identify() {
    const who = await auth.verifyToken({});
    this.username = who.username;
    this.role = who.role;
    this.notice = "";
    this.state = "in";
  }

  #end(notice: string) {
    clearTimeout(this.#timer);
    sessionStorage.removeItem(key);
    this.#access = "";
    this.#expires = 0;
    this.username = "";
    this.role = Role.UNSPECIFIED;
    this.notice = notice;
    this.state = "out";
  }
}

function refused(error: unknown): boolean {
  const { code } = ConnectError.from(error);
  return code === Code.Unauthenticated || code === Code.InvalidArgument || code === Code.PermissionDenied;
}

export const session = new Session();
