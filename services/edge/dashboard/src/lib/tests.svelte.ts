// The newest test of each device.

import { SvelteMap } from "svelte/reactivity";
import { type Test, TestState } from "../gen/sensormesh/commissioning/v1/commissioning_pb";
import { commissioning, requestId } from "./api";

/** By device. Those from the list have no sensors until somebody looks. */
export const tests = new SvelteMap<string, Test>();

function keep({ test }: { test?: Test }) {
  if (test) tests.set(test.deviceId, test);
}

/** Reads which there are. */
export async function loadTests() {
  const page = await commissioning.listTests({ pageSize: 200 });
  for (const test of page.tests.reverse()) keep({ test });
}

/** Tests every sensor of a device. */
export async function startTest(deviceId: string) {
  keep(await commissioning.startTest({ deviceId, requestId: requestId() }));
}

/** Reads one again, with its sensors. */
export async function lookAt(test: Test) {
  keep(await commissioning.getTest({ testId: test.testId }));
}

/** Whether it waits or counts. */
export function unfinished(test?: Test): boolean {
  return !!test && test.state < TestState.DONE;
}
