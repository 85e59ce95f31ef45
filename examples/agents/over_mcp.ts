// An agent in TypeScript that gets its skills from `masa mcp`, adapted to its model. Node.js 22.18 or newer runs it as it is.
//
//     npm install @modelcontextprotocol/sdk@1
//     node over_mcp.ts masa mcp ~/my-skills --backbone qwen2.5-coder-1.5b

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";

type Section = { section: string; status: string; edits: string[] };
type Adapted = { model: string; skills: { name: string; changed: boolean; sections: Section[]; text: string }[] };

const [command, ...args] = process.argv.slice(2);
const client = new Client({ name: "example-agent", version: "1.0.0" });
await client.connect(new StdioClientTransport({ command, args, env: process.env as Record<string, string> }));
try {
  const result = await client.callTool({ name: "adapt", arguments: {} }, undefined, {
    timeout: 600_000,
    onprogress: ({ progress, total }) => console.error(`${progress.toFixed(1)} of ${total} skills`),
  });
  if (result.isError) throw new Error(JSON.stringify(result.content));
  const adapted = result.structuredContent as Adapted;
  for (const skill of adapted.skills) {
    const edits = skill.sections.flatMap((section) => (section.status === "edited" ? section.edits : []));
    console.log(`${skill.name} for ${adapted.model}: ${skill.changed ? edits.join(", ") : "as it was"}`);
  }
  // What an agent puts into its system prompt for one task:
  const picked = await client.callTool({ name: "select", arguments: { query: "what expires soon", sections: 2 } });
  console.log((picked.structuredContent as { text: string }).text);
} finally {
  await client.close();
}
