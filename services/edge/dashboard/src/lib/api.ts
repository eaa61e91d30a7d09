// The contracts as clients, over gRPC-Web to the edge that served this page.

import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { AuthService } from "../gen/sensormesh/auth/v1/auth_pb";
import { CommissioningService } from "../gen/sensormesh/commissioning/v1/commissioning_pb";
import { CredentialsService } from "../gen/sensormesh/devices/v1/credential_pb";
import { DevicesService } from "../gen/sensormesh/devices/v1/devices_pb";
import { EdgeService } from "../gen/sensormesh/edge/v1/edge_pb";
import { RoomsService } from "../gen/sensormesh/rooms/v1/rooms_pb";
import { TelemetryService } from "../gen/sensormesh/telemetry/v1/telemetry_pb";
import { session } from "./session.svelte";

const baseUrl = location.origin;

const withToken: Interceptor = (next) => async (request) => {
  request.header.set("authorization", `Bearer ${await session.token()}`);
  try {
    return await next(request);
  } catch (error) {
    if (request.stream || ConnectError.from(error).code !== Code.Unauthenticated) throw error;
    // Revoked or expired early: once more with a new token.
    request.header.set("authorization", `Bearer ${await session.freshToken()}`);
    return await next(request);
  }
};

const open = createGrpcWebTransport({ baseUrl, defaultTimeoutMs: 10_000 });
const authorized = createGrpcWebTransport({ baseUrl, defaultTimeoutMs: 15_000, interceptors: [withToken] });

/** Calls that need no token. */
export const anyone = createClient(AuthService, open);
export const auth = createClient(AuthService, authorized);
export const devices = createClient(DevicesService, authorized);
export const credentials = createClient(CredentialsService, authorized);
export const telemetry = createClient(TelemetryService, authorized);
export const rooms = createClient(RoomsService, authorized);
export const commissioning = createClient(CommissioningService, authorized);
export const edge = createClient(EdgeService, authorized);

/** A number nobody else has, for `request_id`: the same request twice is done once. */
export function requestId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Reads every page of a list. */
export async function pages<T>(page: (pageToken: string) => Promise<{ items: T[]; next: string }>): Promise<T[]> {
  const all: T[] = [];
  let token = "";
  do {
    const { items, next } = await page(token);
    all.push(...items);
    token = next;
  } while (token);
  return all;
}

/** The reason that programs branch on: the first field of an error's `google.rpc.ErrorInfo`. */
export function reason(error: unknown): string {
  for (const detail of ConnectError.from(error).details) {
    if (!("type" in detail) || detail.type !== "google.rpc.ErrorInfo") continue;
    const [tag, length = 0x80] = detail.value;
    if (tag === 0x0a && length < 0x80) return new TextDecoder().decode(detail.value.subarray(2, 2 + length));
  }
  return "";
}

/** An error in words for people. */
export function words(error: unknown): string {
  const problem = ConnectError.from(error);
  if (problem.code === Code.Unavailable || (problem.code === Code.Unknown && /fetch/i.test(problem.rawMessage))) {
    return problem.rawMessage && !/fetch/i.test(problem.rawMessage)
      ? `Not available at the moment: ${problem.rawMessage}.`
      : "The server cannot be reached at the moment.";
  }
  if (problem.code === Code.DeadlineExceeded) return "The server took too long to answer. Try again.";
  const text = problem.rawMessage || "Something went wrong";
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
